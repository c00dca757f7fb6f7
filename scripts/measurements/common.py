"""Settings, results and timing that the measurements share."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn

from lit_prune import CIFAR10DataModule, LitResNet18
from lit_prune.functional import hold_masks, mask_gradients
from lit_prune.models.fused_adam import ready_fused_adam
from lit_prune.training.cli import TRAINER_DEFAULTS
from lit_prune.training.loggers import make_loggers
from lit_prune.training.run_folder import claim_folder

BATCH_SIZE = 128


@dataclass(frozen=True)
class Settings:
    """Settings of a measurement.

    Attributes:
        source: Images to train on, "synthetic" or "cifar10".
        data_dir: Folder with the CIFAR-10 data.
        rounds: Number of rounds; each contender (compared implementation) runs once per round.
        steps: Training steps, or forward passes, of each contender per round.
    """

    source: Literal["synthetic", "cifar10"]
    data_dir: Path
    rounds: int
    steps: int


@dataclass
class Measurement:
    """Training times of the compared implementations (contenders), and ratios of these times.

    Attributes:
        seconds: Seconds per step by contender, a list with one entry per round.
        ratios: Ratios by name, a list with one entry per round.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    ratios: dict[str, list[float]] = field(default_factory=dict)

    def compare(self, name: str, over: str, under: str) -> None:
        """Add the ratio of the times of two contenders, `over` divided by `under`."""
        pairs = zip(self.seconds[over], self.seconds[under], strict=True)
        self.ratios[name] = [above / below for above, below in pairs]

    def content(self) -> dict[str, Any]:
        """Return all times and ratios, for JSON."""
        return {
            "seconds_per_step": {key: summary(values) for key, values in self.seconds.items()},
            "ratios": {key: summary(values) for key, values in self.ratios.items()},
        }


def summary(values: list[float]) -> dict[str, Any]:
    """Return the median, the lowest and the highest of the values, and the values themselves."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values), "rounds": values}


def wait_for(device: str) -> None:
    """Wait until a device has done the work that is queued for it."""
    if device == "cuda":
        torch.cuda.synchronize()


class BareStep:
    """Training steps on one batch in memory, without Lightning.

    Args:
        model: Network to train; weights that it masks stay zero.
        clip: Whether to clip gradients by their norm.
        device: "cpu" or "cuda".
        batch_size: Number of images in the batch; None for 128, as in the original study.
        dtype: Type in which the forward pass computes what autocast allows; None for float32.
    """

    def __init__(
        self,
        model: nn.Module,
        clip: bool = False,
        device: str = "cpu",
        batch_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.clip, self.device, self.dtype = model.to(device), clip, device, dtype
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, fused=True)
        ready_fused_adam(self.optimizer)
        hold_masks(model, self.optimizer)
        images = torch.randn(batch_size or BATCH_SIZE, 3, 32, 32, device=device)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.labels = torch.randint(0, 10, (len(images),), device=device)

    def run(self, steps: int) -> None:
        """Train for a number of steps."""
        for _ in range(steps):
            self.optimizer.zero_grad()
            with torch.autocast(self.device, self.dtype, enabled=self.dtype is not None):
                loss = F.cross_entropy(self.model(self.images), self.labels)
            loss.backward()  # type: ignore[no-untyped-call]
            if self.clip:
                mask_gradients(self.model)
                nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()
        wait_for(self.device)


class Turns(Callback):
    """Measures the time of each epoch of a Trainer, and runs and measures the other contenders after each epoch.

    Args:
        steps: Training steps per epoch, and of each other contender after an epoch.
        others: Functions that train for a given number of steps, by name.
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
        """Record the time of the epoch, then run each other contender and record its time."""
        self._note("trainer")
        for name, run in self.others.items():
            self._began = time.perf_counter()
            run(self.steps)
            self._note(name)

    def _note(self, name: str) -> None:
        wait_for("cuda" if torch.cuda.is_available() else "cpu")
        self.seconds[name].append((time.perf_counter() - self._began) / self.steps)


def take_turns(settings: Settings, contenders: Mapping[str, Callable[[int], None]]) -> dict[str, list[float]]:
    """Run the contenders in turn, once in each round, and measure their times; a round before these is a warm-up.

    Args:
        settings: Numbers of rounds and steps.
        contenders: Functions that run a given number of steps, by name.

    Returns:
        Seconds per step by contender, one entry per round, without the warm-up.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(settings.rounds + 1):
        for name, run in contenders.items():
            began = time.perf_counter()
            run(settings.steps)
            seconds[name].append((time.perf_counter() - began) / settings.steps)
    return {name: values[1:] for name, values in seconds.items()}


def time_trainer(
    settings: Settings,
    model: LitResNet18,
    others: Mapping[str, Callable[[int], None]],
    callbacks: Sequence[Callback] = (),
    device: str = "cpu",
) -> dict[str, list[float]]:
    """Train a model as `lit-prune fit` does, run the other contenders after each epoch, and measure all times.

    Args:
        settings: Images, and numbers of rounds and steps.
        model: Model to train.
        others: Other contenders, as in `take_turns`.
        callbacks: Additional callbacks of the Trainer.
        device: "cpu" or "cuda".

    Returns:
        Seconds per step by contender ("trainer" and the others' names), one entry per round, without the first epoch.
    """
    turns = Turns(settings.steps, others)
    # nothing is validated, so hold out few images: the synthetic data set is small
    data = CIFAR10DataModule(settings.data_dir, source=settings.source, batch_size=BATCH_SIZE, val_size=500)
    with tempfile.TemporaryDirectory() as folder, open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        trainer = Trainer(
            **TRAINER_DEFAULTS
            | {
                "accelerator": device,
                "max_epochs": settings.rounds + 1,
                "limit_train_batches": settings.steps,
                "limit_val_batches": 0,
                "enable_checkpointing": False,
                "logger": make_loggers(claim_folder(Path(folder), "benchmark")),
                "callbacks": [*callbacks, turns],
            }
        )
        trainer.fit(model, data)
    return {name: seconds[1:] for name, seconds in turns.seconds.items()}
