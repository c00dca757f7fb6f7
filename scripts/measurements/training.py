"""Compare lit-prune to plain PyTorch, and measure the time that data loading and Lightning add to a step.

The plain loop and its network are those of the original study: the student project that README.md describes.
"""

from collections.abc import Iterator
from functools import partial
from itertools import islice

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from lit_prune import LitResNet18
from lit_prune.data import cifar10, synthetic
from lit_prune.data.augment import MEAN, STD
from lit_prune.data.cifar10 import Split
from lit_prune.functional.plain import plain_copy
from measurements.common import BATCH_SIZE, BareStep, Measurement, Settings, take_turns, time_trainer


def measure_training(settings: Settings) -> Measurement:
    """Compare a Trainer to a plain PyTorch loop, both with data loading; then compare only their training steps."""
    others = {
        "plain loop": PlainLoop(settings).run,
        "bare step": BareStep(LitResNet18().train()).run,
        "plain step": FixedLoop(settings).run,
    }
    measurement = Measurement(time_trainer(settings, LitResNet18(), others))
    measurement.compare("epoch: plain loop / ours", "plain loop", "trainer")
    measurement.compare("step: plain step / ours", "plain step", "bare step")
    return measurement


def measure_inference(settings: Settings) -> Measurement:
    """Compare forward passes of a `LitResNet18` to those of torch's own layers in torch's default memory layout."""
    ours = LitResNet18().eval()
    plain = plain_copy(ours).to(memory_format=torch.contiguous_format)
    measurement = Measurement()
    for count in (1, BATCH_SIZE):
        images = torch.randn(count, 3, 32, 32)
        mine, theirs = f"ours, batch {count}", f"torch, batch {count}"
        contenders = {mine: partial(infer, ours, images), theirs: partial(infer, plain, images)}
        measurement.seconds |= take_turns(settings, contenders)
        measurement.compare(f"batch {count}: torch / ours", theirs, mine)
    return measurement


@torch.inference_mode()
def infer(model: nn.Module, images: Tensor, steps: int) -> None:
    """Run a number of forward passes on one batch."""
    for _ in range(steps):
        model(images)


def measure_overhead(settings: Settings) -> Measurement:
    """Measure the time that data loading and Lightning add to a step, by training an almost empty network."""
    stub, bare_stub = LitResNet18(), LitResNet18()
    stub.backbone = bare_stub.backbone = Stub()
    others = {"bare stub": BareStep(bare_stub).run, "bare step": BareStep(LitResNet18().train()).run}
    measurement = Measurement(time_trainer(settings, stub, others))
    measurement.seconds["stub trainer"] = measurement.seconds.pop("trainer")
    rows = zip(*(measurement.seconds[name] for name in ("stub trainer", "bare stub", "bare step")), strict=True)
    measurement.ratios["data and Lightning / step"] = [
        (with_trainer - without) / (step + with_trainer - without) for with_trainer, without, step in rows
    ]
    return measurement


class PlainResNet(nn.Module):
    """Network of the original study."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(*list(resnet18().children())[:-1])
        self.fc1 = nn.Linear(512, 100)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Compute logits of images."""
        features: Tensor = self.model(images).squeeze(-1).squeeze(-1)
        logits: Tensor = self.fc2(self.relu(self.fc1(features)))
        return logits


class PlainImages(Dataset[tuple[Tensor, int]]):
    """A data set that transforms images one by one, as torchvision's CIFAR10 does."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.transform = Compose([RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.split.images[index])), int(self.split.labels[index])


class PlainLoop:
    """A plain PyTorch training loop, as in the original study."""

    def __init__(self, settings: Settings, device: str = "cpu") -> None:
        self.device = device
        is_synthetic = settings.source == "synthetic"
        split = synthetic.draw_split("train") if is_synthetic else cifar10.open_split(settings.data_dir, "train")
        self.batches = self._batches(
            DataLoader(PlainImages(split), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
        )
        self.net = PlainResNet().to(device)
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def run(self, steps: int) -> None:
        """Train for a number of steps."""
        for images, labels in islice(self.batches, steps):
            self.step(images, labels)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Train on one batch."""
        images, labels = images.to(self.device), labels.to(self.device)
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    @staticmethod
    def _batches(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader


class FixedLoop(PlainLoop):
    """A plain PyTorch training loop that uses the same batch, kept in memory, in each step."""

    def run(self, steps: int) -> None:
        """Train for a number of steps."""
        if not hasattr(self, "batch"):
            self.batch = next(self.batches)
        for _ in range(steps):
            self.step(*self.batch)


class Stub(nn.Module):
    """An almost empty replacement for the backbone of `LitResNet18`."""

    def forward(self, images: Tensor) -> Tensor:
        """Return the first 512 values of each image."""
        return images.permute(0, 2, 3, 1).flatten(1)[:, :512]
