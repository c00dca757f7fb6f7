"""Use callbacks of lit-prune in your own Lightning script.

    python reuse_in_your_project.py    # takes a few seconds

Model and data are ordinary Lightning classes. The script trains a dense model, trains one copy of it further as a
baseline and another one while pruning it gradually, repeats the end of the pruned training from an early checkpoint,
compares the weights, and saves weights that load without lit-prune.
"""

import logging
import tempfile
import warnings
from pathlib import Path

import torch
from lightning.pytorch import LightningDataModule, LightningModule, Trainer, seed_everything
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from lit_prune import GlobalL1Pruning, LayerFreezing, SparsityMonitor
from lit_prune.functional import sparsity_report, weight_layers


class BarNet(LightningModule):
    """A small convolutional network.

    Args:
        width: Number of output channels of the first convolution.
        lr: Learning rate of SGD with momentum.
    """

    def __init__(self, width: int = 16, lr: float = 0.05) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.lr = lr
        self.stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
        self.body = nn.Sequential(
            nn.Conv2d(width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(2 * width), nn.ReLU(),
        )  # fmt: skip
        self.head = nn.Linear(2 * width, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits (N, 3) of images (N, 1, 16, 16)."""
        logits: Tensor = self.head(self.body(self.stem(images)).mean((2, 3)))
        return logits

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        """Return the loss of a batch."""
        images, labels = batch
        return F.cross_entropy(self(images), labels)

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        """Log the accuracy of a batch."""
        images, labels = batch
        self.log("accuracy", (self(images).argmax(1) == labels).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Return the optimizer."""
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


class Bars(LightningDataModule):
    """Noisy images of a horizontal bar, a vertical bar, or both.

    Args:
        images: Number of training images. The validation set has half as many.
        noise: Standard deviation of the noise.
    """

    def __init__(self, images: int = 384, noise: float = 0.8) -> None:
        super().__init__()
        self.images, self.noise = images, noise

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of the training images."""
        # a fixed order, so that a resumed run sees the same batches as an uninterrupted run
        return DataLoader(self._draw(self.images, seed=0), batch_size=32, shuffle=False)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        """Return a loader of the validation images."""
        return DataLoader(self._draw(self.images // 2, seed=1), batch_size=64)

    def _draw(self, count: int, seed: int) -> TensorDataset:
        random = torch.Generator().manual_seed(seed)
        labels = torch.arange(count) % 3
        images = self.noise * torch.randn(count, 1, 16, 16, generator=random)
        rows, columns = torch.randint(2, 13, (2, count), generator=random)
        for image, label, row, column in zip(images, labels, rows, columns, strict=True):
            if label != 1:
                image[0, row : row + 2, 2:14] += 1
            if label != 0:
                image[0, 2:14, column : column + 2] += 1
        return TensorDataset(images, labels)


def train(
    folder: Path, epochs: int, *callbacks: Callback, resume: Path | None = None, start: BarNet | None = None
) -> BarNet:
    """Train a network for some epochs and print its accuracy.

    Args:
        folder: Folder for checkpoints.
        epochs: Number of epochs.
        callbacks: Callbacks that freeze, prune and monitor.
        resume: Checkpoint to resume from.
        start: Network whose weights are the initial weights. By default, initial weights are random.
    """
    seed_everything(0, verbose=False)
    model = BarNet()
    if start is not None:
        model.load_state_dict(start.state_dict())
    trainer = Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        callbacks=[*callbacks, ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, Bars(), ckpt_path=resume)
    print(f"  accuracy {float(trainer.callback_metrics['accuracy']):.1%} after {trainer.current_epoch} epochs")
    return model


def callbacks() -> list[Callback]:
    """Create the callbacks of the training that prunes."""
    return [
        LayerFreezing(layers=["stem*"], unfreeze_epoch=1),  # freezes the first layer for one epoch
        GlobalL1Pruning(amount=0.8, start_epoch=0, end_epoch=3),  # after three epochs, 80% of all weights are zero
        SparsityMonitor(),  # logs the sparsity
    ]


def main() -> None:
    """Run all trainings, and save the pruned weights."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", ".*does not have many workers.*")  # the data is in memory
    warnings.filterwarnings("ignore", ".*dirpath has changed.*")  # the resumed run writes to another folder
    warnings.filterwarnings("ignore", ".*isinstance\\(treespec, LeafSpec\\).*")  # Lightning 2.6 with newer torch
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print("dense:")
        dense = train(folder / "dense", 4)

        print("dense, trained further:")  # the baseline for pruning
        train(folder / "control", 5, start=dense)

        print("pruned to 80% sparsity while it is trained further:")
        sparse = train(folder / "sparse", 5, *callbacks(), start=dense)
        report = sparsity_report(weight_layers(sparse))
        print(f"  {report.zeros} of {report.weights} weights are zero")

        print("pruned to 80% sparsity, resumed from the checkpoint of an early epoch:")
        resumed = train(folder / "resumed", 5, *callbacks(), resume=folder / "sparse" / "epoch=1.ckpt")
        same = all(torch.equal(a, b) for a, b in zip(sparse.parameters(), resumed.parameters(), strict=True))
        print(f"  the weights are {'the same as' if same else 'different from'} those of the uninterrupted training")

        torch.save(sparse.state_dict(), folder / "weights.pt")
        plain = BarNet()
        plain.load_state_dict(torch.load(folder / "weights.pt", weights_only=True))
        print(f"saved without masks: {', '.join(list(plain.state_dict())[:3])}, ...")
        plain.eval()
        with torch.no_grad():
            right = torch.cat([plain(images).argmax(1) == labels for images, labels in Bars().val_dataloader()])
        print(f"accuracy {right.float().mean():.1%}, {report.sparsity:.1%} of the weights are zero")


if __name__ == "__main__":
    main()
