"""Pre-train a ResNet-18 to recognise rotations of the images that the study `medium` does not use.

    python scripts/pretrain.py pretrained-by-rotation.pt

The weights stand in for ImageNet's, which have to be downloaded. They come from the 37,500 training images of CIFAR-10
that the study neither trains nor validates on, and from a task that needs no labels: by how many quarter turns an image
was rotated (Gidaris et al., "Unsupervised representation learning by predicting image rotations", 2018). The file has
the form of torchvision's weights, with zeros in place of its classifier; `lit-prune study --weights FILE` and
`lit-prune fit --model.weights FILE` read it.
"""

import argparse
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Trainer, seed_everything
from torch import Tensor

from lit_prune import CIFAR10DataModule, LitResNet18
from lit_prune.data.loader import Images
from lit_prune.data.randomness import balanced_order

VAL_SIZE, TRAINED = 2500, 10000  # images that the study validates and trains on


class OtherImages(CIFAR10DataModule):
    """The training images of CIFAR-10 that the study leaves out; 1,000 of them for validation."""

    def setup(self, stage: str) -> None:
        """Open the images."""
        split = self._open("train")
        rest = balanced_order(split.labels, self.split_seed)[VAL_SIZE + TRAINED :]
        self._images["validate"] = Images(*split, np.sort(rest[:1000]))
        self._images["fit"] = Images(*split, np.sort(rest[1000:]))
        self._seed = 0


class Rotations(LitResNet18):
    """A network that tells rotations by 0, 90, 180 and 270 degrees apart."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Compute the loss for a random rotation of each image, which depends only on the step."""
        generator = torch.Generator().manual_seed(self.global_step)
        return super().training_step(
            rotate(batch[0], torch.randint(4, (len(batch[0]),), generator=generator)), batch_idx
        )

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Log loss and accuracy for rotations that are equally frequent."""
        super().validation_step(rotate(batch[0], torch.arange(len(batch[0])) % 4), batch_idx)


def rotate(images: Tensor, turns: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate each image by its number of quarter turns; return the images and these numbers as labels."""
    turned = [torch.rot90(image, int(turn), (1, 2)) for image, turn in zip(images, turns, strict=True)]
    return torch.stack(turned).contiguous(memory_format=torch.channels_last), turns


def main() -> None:
    """Train and write the weights."""
    parser = argparse.ArgumentParser(description="Pre-train weights for the study `medium`.")
    parser.add_argument("output", help="File to write.")
    parser.add_argument("--data_dir", default="data", help="Folder of CIFAR-10.")
    parser.add_argument("--epochs", type=int, default=8)
    options = parser.parse_args()
    seed_everything(0)
    torch.set_num_threads(1)
    model = Rotations()
    trainer = Trainer(max_epochs=options.epochs, accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.fit(model, datamodule=OtherImages(options.data_dir, val_size=VAL_SIZE))
    print({name: round(float(value), 4) for name, value in trainer.callback_metrics.items()})
    state = {name: value.contiguous() for name, value in model.backbone.state_dict().items()}
    state |= {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save(state, options.output)


if __name__ == "__main__":
    main()
