"""Measure what lit-prune's speed rests on, side by side in one process, and print it as ratios.

    python scripts/benchmark.py --source synthetic --json benchmark.json

Contenders take turns, round by round, so that a noisy machine treats them alike; a ratio is the median over the rounds
and is given with the lowest and the highest.
"""

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet18
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

from lit_prune import CIFAR10DataModule, LitResNet18
from lit_prune.cli.runs import default_loggers
from lit_prune.cli.training import TRAINER_DEFAULTS
from lit_prune.data import arrays, synthetic
from lit_prune.data.arrays import Split
from lit_prune.data.augment import MEAN, STD
from lit_prune.errors import InputError

BATCH_SIZE = 128


@dataclass(frozen=True)
class Settings:
    """What to measure on, and how long.

    Attributes:
        source: "synthetic" or "cifar10".
        data_dir: Folder of CIFAR-10's arrays.
        rounds: Turns that each contender takes.
        steps: Training steps in a turn.
    """

    source: Literal["synthetic", "cifar10"]
    data_dir: Path
    rounds: int
    steps: int


@dataclass
class Measurement:
    """Seconds per step of each contender, by round, and what follows from them.

    Attributes:
        seconds: By contender, one entry a round.
        ratios: By name, one entry a round.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)

    def compare(self, name: str, over: str, under: str) -> None:
        """Add the ratio of two contenders, round by round."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        self.ratios[name] = [above / below for above, below in pairs]


class PlainResNet(nn.Module):
    """The seed's network."""

    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(*list(resnet18().children())[:-1])
        self.fc1 = nn.Linear(512, 100)
        self.relu = nn.ReLU(inplace=True)
        self.fc2 = nn.Linear(100, 10)

    def forward(self, images: Tensor) -> Tensor:
        """Score images."""
        features: Tensor = self.model(images).squeeze(-1).squeeze(-1)
        logits: Tensor = self.fc2(self.relu(self.fc1(features)))
        return logits


class PlainImages(Dataset[tuple[Tensor, int]]):
    """Images one by one, each transformed by itself, as torchvision's CIFAR10 gives them."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.transform = Compose([RandomHorizontalFlip(), ToTensor(), Normalize(MEAN, STD)])

    def __len__(self) -> int:
        return len(self.split.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.split.images[index])), int(self.split.labels[index])


class PlainLoop:
    """A plain PyTorch training loop, written as the seed's."""

    def __init__(self, settings: Settings) -> None:
        is_synthetic = settings.source == "synthetic"
        split = synthetic.draw_split("train") if is_synthetic else arrays.open_split(settings.data_dir, "train")
        self.batches = self._batches(
            DataLoader(PlainImages(split), batch_size=BATCH_SIZE, shuffle=True, drop_last=True)
        )
        self.net = PlainResNet()
        self.optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def run(self, steps: int) -> None:
        """Train for some steps."""
        for images, labels in islice(self.batches, steps):
            self.step(images, labels)

    def step(self, images: Tensor, labels: Tensor) -> float:
        """Train on one batch."""
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.net(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return loss.item()

    @staticmethod
    def _batches(loader: DataLoader[tuple[Tensor, int]]) -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            yield from loader


class BareStep:
    """Our network's training step on one batch that is there already, without Lightning.

    Args:
        model: The network.
    """

    def __init__(self, model: LitResNet18) -> None:
        self.model = model
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        images = torch.randn(BATCH_SIZE, 3, 32, 32)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (BATCH_SIZE,))

    def run(self, steps: int) -> None:
        """Train for some steps."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            F.cross_entropy(self.model(self.images), self.labels).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()


class FixedLoop(PlainLoop):
    """The plain loop's step on one batch that is there already."""

    def run(self, steps: int) -> None:
        """Train for some steps."""
        if not hasattr(self, "batch"):
            self.batch = next(self.batches)
        for _ in range(steps):
            self.step(*self.batch)


class Turns(Callback):
    """Times the epochs of a Trainer, and lets the other contenders run between them.

    Args:
        steps: Training steps in an epoch, and in a turn of each other contender.
        others: What runs between the epochs, by name: trains for the given number of steps.
    """

    def __init__(self, steps: int, others: Mapping[str, Callable[[int], None]]) -> None:
        self.steps = steps
        self.others = others
        self.seconds: dict[str, list[float]] = {"trainer": [], **{name: [] for name in others}}
        self._began = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note the Trainer's time, then that of each other contender."""
        self._note("trainer")
        for name, run in self.others.items():
            self._began = time.perf_counter()
            run(self.steps)
            self._note(name)

    def _note(self, name: str) -> None:
        self.seconds[name].append((time.perf_counter() - self._began) / self.steps)


class Stub(nn.Module):
    """In the place of a backbone: features that cost next to nothing."""

    def forward(self, images: Tensor) -> Tensor:
        """Take the first 512 values of each image."""
        return images.permute(0, 2, 3, 1).flatten(1)[:, :512]


def time_trainer(
    settings: Settings, model: LitResNet18, others: Mapping[str, Callable[[int], None]]
) -> dict[str, list[float]]:
    """Train a model as the command line would, and others in turn with it.

    Args:
        settings: What to measure on, and how long.
        model: The model to train.
        others: The other contenders.

    Returns:
        Seconds per step by contender ("trainer" and the others' names), one entry a round, the first left out.
    """
    turns = Turns(settings.steps, others)
    data = CIFAR10DataModule(settings.data_dir, source=settings.source, batch_size=BATCH_SIZE, augment="flip")
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        trainer = Trainer(
            **TRAINER_DEFAULTS
            | {
                "accelerator": "cpu",
                "max_epochs": settings.rounds + 1,
                "limit_train_batches": settings.steps,
                "limit_val_batches": 0,
                "enable_checkpointing": False,
                "logger": default_loggers(Path(folder), "benchmark"),
                "callbacks": [turns],
            }
        )
        trainer.fit(model, data)
    return {name: seconds[1:] for name, seconds in turns.seconds.items()}


def measure_training(settings: Settings) -> Measurement:
    """Our training through the Trainer, with data and logging, against the plain loop; and the bare steps of both."""
    others = {
        "plain loop": PlainLoop(settings).run,
        "bare step": BareStep(LitResNet18().train()).run,
        "plain step": FixedLoop(settings).run,
    }
    measurement = Measurement(time_trainer(settings, LitResNet18(), others))
    measurement.compare("epoch: plain loop / ours", "plain loop", "trainer")
    measurement.compare("step: plain step / ours", "plain step", "bare step")
    return measurement


def measure_overhead(settings: Settings) -> Measurement:
    """What data and Lightning add to a step of ours: the time of a Trainer whose network costs next to nothing."""
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


MEASUREMENTS: dict[str, Callable[[Settings], Measurement]] = {
    "training": measure_training,
    "overhead": measure_overhead,
}


def summary(values: list[float]) -> dict[str, Any]:
    """Describe what came out of the rounds."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": values}


def show(name: str, measurement: Measurement) -> None:
    """Print one measurement as a table."""
    print(f"\n{name}")
    for contender, seconds in measurement.seconds.items():
        ms = [1000 * value for value in seconds]
        print(f"  {contender:<28} {statistics.median(ms):8.1f} ms a step   ({min(ms):.1f} to {max(ms):.1f})")
    for ratio, values in measurement.ratios.items():
        print(f"  {ratio:<28} {statistics.median(values):8.3f}             ({min(values):.3f} to {max(values):.3f})")


def main(words: list[str] | None = None) -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", choices=["synthetic", "cifar10"], default="synthetic", help="what to train on")
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder of CIFAR-10's arrays")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each contender")
    parser.add_argument("--steps", type=int, default=20, help="training steps in a turn")
    parser.add_argument("--json", type=Path, help="write the result to this file as well")
    parser.add_argument(
        "--only", choices=list(MEASUREMENTS), action="append", help="measure this alone; may be repeated"
    )
    options = parser.parse_args(words)
    if options.rounds < 1 or options.steps < 1:
        parser.error("--rounds and --steps are at least 1")
    settings = Settings(options.source, options.data_dir, options.rounds, options.steps)
    seed_everything(0, verbose=False)
    results = {}
    for name in options.only or MEASUREMENTS:
        try:
            measurement = MEASUREMENTS[name](settings)
        except InputError as error:
            parser.error(str(error))
        show(name, measurement)
        results[name] = {
            "seconds_per_step": {key: summary(values) for key, values in measurement.seconds.items()},
            "ratios": {key: summary(values) for key, values in measurement.ratios.items()},
        }
    if options.json:
        machine = {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
            "python": platform.python_version(),
            "torch": torch.__version__,
        }
        content = {"machine": machine, "settings": asdict(settings) | {"data_dir": str(settings.data_dir)}}
        options.json.write_text(json.dumps(content | {"measurements": results}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    warnings.filterwarnings("ignore", ".*does not have many workers.*")
    sys.exit(main())
