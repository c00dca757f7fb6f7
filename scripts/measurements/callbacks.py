"""Measure how long pruning, RigL, monitoring and scaled updates take, and how much time freezing saves."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelPruning
from torch import nn
from torch.nn.utils import prune
from torchvision.models import resnet18

from lit_prune import LitResNet18, RigL, SparsityMonitor
from lit_prune.functional import ScaledUpdates, apply_masks, compute_masks, freeze, weight_layers
from lit_prune.functional.sharding import Split
from lit_prune.functional.threshold import mark_lowest
from measurements.common import BareStep, Measurement, Settings, take_turns, time_trainer, wait_for

AMOUNT = 0.3


def measure_masks(settings: Settings) -> Measurement:
    """Compare steps with 30% of the weights masked to steps without masks; compare our masks to `ModelPruning`'s."""
    masked, clipped = LitResNet18().train(), LitResNet18().train()
    for model in (masked, clipped):
        apply_masks(model, compute_masks(weight_layers(model), AMOUNT))
    # ModelPruning cannot prune channels_last weights, so the comparison with it uses torchvision's ResNet-18
    ours, theirs = resnet18(num_classes=10), resnet18(num_classes=10)
    apply_masks(ours, compute_masks(weight_layers(ours), AMOUNT))
    prune_as_lightning_does(theirs)
    measurement = Measurement(
        take_turns(
            settings,
            {
                "dense": BareStep(LitResNet18().train()).run,
                "masked": BareStep(masked).run,
                "dense, clipped": BareStep(LitResNet18().train(), clip=True).run,
                "masked, clipped": BareStep(clipped, clip=True).run,
                "torchvision, our masks": BareStep(ours).run,
                "torchvision, ModelPruning": BareStep(theirs).run,
            },
        )
    )
    measurement.compare("masked / dense", "masked", "dense")
    measurement.compare("masked / dense, with clipping", "masked, clipped", "dense, clipped")
    measurement.compare("our masks / ModelPruning", "torchvision, our masks", "torchvision, ModelPruning")
    return measurement


def measure_threshold(settings: Settings, device: str = "cpu", network: nn.Module | None = None) -> Measurement:
    """Compare the times in which lit-prune and `torch.nn.utils.prune` find the smallest 30% of 11.2 million weights."""
    model = (network or LitResNet18()).to(device)
    weights = weight_layers(model)
    total = sum(ref.tensor.numel() for ref in weights)
    scores = [ref.tensor.detach().abs().flatten() for ref in weights]

    def threshold(steps: int) -> None:
        for _ in range(steps):
            list(mark_lowest([*scores], [None] * len(scores), round(AMOUNT * total), Split(scores)))
        wait_for(device)

    def masks(steps: int) -> None:
        for _ in range(steps):
            compute_masks(weights, AMOUNT)
        wait_for(device)

    def torchs(steps: int) -> None:
        for _ in range(steps):
            plain = resnet18(num_classes=10).to(device)
            wait_for(device)
            began = time.perf_counter()
            prune_globally(plain)
            wait_for(device)
            spent.append(time.perf_counter() - began)

    spent: list[float] = []
    few = replace(settings, steps=2)
    measurement = Measurement(take_turns(few, {"threshold": threshold, "masks": masks, "torch": torchs}))
    # count only the time to prune, not the time to build networks; leave out the warm-up, as `take_turns` does
    spent = spent[few.steps :]
    measurement.seconds["torch"] = [sum(spent[i : i + few.steps]) / few.steps for i in range(0, len(spent), few.steps)]
    measurement.compare("torch / threshold", "torch", "threshold")
    measurement.compare("torch / masks", "torch", "masks")
    return measurement


def measure_freezing(settings: Settings) -> Measurement:
    """Compare training steps with the first 30% of the layers frozen, or all updates scaled, to ordinary steps."""
    frozen = LitResNet18().train()
    freeze(frozen, fraction=0.3)
    scaled = BareStep(LitResNet18().train())
    ScaledUpdates(scaled.optimizer, scaled.model.parameters(), factor=0.1)
    contenders = {
        "none frozen": BareStep(LitResNet18().train()).run,
        "30% frozen": BareStep(frozen).run,
        "scaled": scaled.run,
    }
    measurement = Measurement(take_turns(settings, contenders))
    measurement.compare("30% frozen / none frozen", "30% frozen", "none frozen")
    measurement.compare("scaled updates / none frozen", "scaled", "none frozen")
    return measurement


def measure_monitor(settings: Settings, device: str = "cpu", model: LitResNet18 | None = None) -> Measurement:
    """Measure how much time of an epoch is spent in the hooks of `SparsityMonitor`."""
    monitor = TimedMonitor()
    epoch = 352 if settings.source == "cifar10" else 74
    settings = replace(settings, steps=min(10 * settings.steps, epoch))
    # the monitor logs and draws once per epoch, so a short epoch would overstate its share
    seconds = time_trainer(settings, model or LitResNet18(), {}, [monitor], device)["trainer"]
    inside = [spent / settings.steps for spent in monitor.epochs[1:]]
    measurement = Measurement({"trainer with monitor": seconds, "inside the monitor": inside})
    pairs = zip(seconds, inside, strict=True)
    measurement.ratios["monitor on / off"] = [whole / (whole - part) for whole, part in pairs]
    return measurement


def measure_rigl(settings: Settings) -> Measurement:
    """Compare the times of `RigL`, for its sums of gradients and for a change of the masks, to that of a step."""
    rigl = TimedRigL(settings.steps)  # one change in each epoch
    whole = time_trainer(settings, LitResNet18(), {}, [rigl])["trainer"]
    changes, sums = rigl.changes[1:], [spent / settings.steps for spent in rigl.sums[1:]]
    parts = zip(whole, changes, sums, strict=True)
    step = [seconds - change / settings.steps - adding for seconds, change, adding in parts]
    measurement = Measurement(
        {"step without RigL": step, "sums of gradients": sums, "one change of the masks": changes}
    )
    measurement.compare("sums / step", "sums of gradients", "step without RigL")
    measurement.compare("change / step", "one change of the masks", "step without RigL")
    return measurement


class TimedRigL(RigL):
    """A `RigL` that measures, in each epoch, the time of its sums of gradients and of its changes of the masks."""

    def __init__(self, steps: int) -> None:
        super().__init__(0.8, every_n_steps=steps, end_step=1_000_000)
        self.changes: list[float] = []
        self.sums: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to add up the times of a new epoch."""
        self.changes.append(0.0)
        self.sums.append(0.0)
        super().on_train_epoch_start(trainer, pl_module)

    def on_train_batch_start(self, *args: Any) -> None:
        """Measure the time of a change, if one is due."""
        began = time.perf_counter()
        super().on_train_batch_start(*args)
        self.changes[-1] += time.perf_counter() - began

    def on_dense_gradients(self, *args: Any) -> None:
        """Measure the time of adding gradients."""
        began = time.perf_counter()
        super().on_dense_gradients(*args)
        self.sums[-1] += time.perf_counter() - began


class TimedMonitor(SparsityMonitor):
    """A `SparsityMonitor` that measures the time of its hooks in each epoch."""

    def __init__(self) -> None:
        super().__init__()
        self.epochs: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start to add up the times of a new epoch."""
        self.epochs.append(0.0)

    def _sample(self, index: int, *args: Any) -> None:
        self._timed(lambda: super(TimedMonitor, self)._sample(index, *args))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Measure the time of logging."""
        self._timed(lambda: super(TimedMonitor, self).on_train_epoch_end(trainer, pl_module))

    def _timed(self, action: Callable[[], Any]) -> None:
        began = time.perf_counter()
        action()
        self.epochs[-1] += time.perf_counter() - began


def prune_globally(model: nn.Module) -> None:
    """Prune a model with `torch.nn.utils.prune`, as the original study did."""
    pairs = [(ref.module, ref.parameter) for ref in weight_layers(model)]
    prune.global_unstructured(pairs, pruning_method=prune.L1Unstructured, amount=AMOUNT)


def prune_as_lightning_does(model: nn.Module) -> None:
    """Prune a model as Lightning's `ModelPruning` does."""
    pairs = [(ref.module, ref.parameter) for ref in weight_layers(model)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        callback = ModelPruning("l1_unstructured", parameters_to_prune=pairs, use_global_unstructured=True)
        callback.apply_pruning(AMOUNT)
