"""The libraries that are compared, each with the settings that come closest to the promises."""

import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import BackboneFinetuning, ModelPruning
from torch import Tensor, nn

from comparisons import freezing, pruning
from comparisons.common import Result, Small, Watch, fit
from lit_prune import GlobalL1Pruning, LayerFreezing
from lit_prune.trained.shrink import remove_channels

Promises = dict[str, Callable[[], Result]]  # name of a promise -> function that measures it


def lit_prune() -> Promises:
    """Return, for each promise, the function that tests whether lit-prune keeps it."""
    ours = pruning.Pruning(
        half=lambda: GlobalL1Pruning(0.5, start_epoch=1),
        ramp=lambda: GlobalL1Pruning(pruning.RAMP[-1], end_epoch=len(pruning.RAMP), schedule="linear"),
    )
    freezes = freezing.Freezing(
        until=lambda: LayerFreezing(layers="backbone", unfreeze_epoch=freezing.THAWED), phases=_our_phases
    )
    return _measured(pruning.PROMISES, ours) | {
        "channels": partial(pruning.channels, _without_channels),
        **_measured(freezing.PROMISES, freezes),
    }


def _measured(promises: Mapping[str, Callable[[Any], Result]], library: Any) -> Promises:
    return {name: partial(promise, library) for name, promise in promises.items()}


def _our_phases(folder: Path) -> Callback:
    file = folder / "freezing.yaml"
    file.write_text(
        "freezing:\n  class_path: lit_prune.LayerFreezing\n  init_args:\n    layers: backbone\n    phases:\n"
        "    - {epoch: 1, layers: backbone.3}\n    - {epoch: 3}\n"
    )
    parser = ArgumentParser()
    parser.add_argument("--freezing", type=Callback)
    made: Callback = parser.instantiate_classes(parser.parse_path(file)).freezing
    return made


def _without_channels(model: nn.Module) -> nn.Module:
    *_, classifier = (name for name, layer in model.named_modules() if isinstance(layer, nn.Linear))
    return remove_channels(model, 0.5, 32, [classifier])


def model_pruning() -> Promises:
    """Return, for each promise, the function that tests whether Lightning's `ModelPruning` keeps it."""
    fractions = [(after - before) / (1 - before) for before, after in pairwise([0.0, *pruning.RAMP])]
    theirs = pruning.Pruning(
        half=lambda: MatrixPruning(lambda epoch: 0.5 if epoch == 0 else 0),
        # its amounts are fractions of the weights that are left
        ramp=lambda: MatrixPruning(lambda epoch: fractions[epoch] if epoch < len(fractions) else 0),
    )
    return _measured(pruning.PROMISES, theirs) | {"channels": partial(pruning.channels, _zero_channels)}


def _zero_channels(model: nn.Module) -> nn.Module:
    callback = ModelPruning("ln_structured", pruning_dim=0, pruning_norm=1, use_global_unstructured=False)
    callback._parameters_to_prune = [(layer, "weight") for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    callback.apply_pruning(0.5)
    callback.make_pruning_permanent(model)
    return model


class MatrixPruning(ModelPruning):
    """A `ModelPruning` that prunes all matrices, but no biases, and does not rewind."""

    def __init__(self, amount: Callable[[int], float]) -> None:
        super().__init__("l1_unstructured", amount=amount, use_lottery_ticket_hypothesis=False)

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Choose the matrices."""
        self._parameters_to_prune = [
            (module, name)
            for module in pl_module.modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.dim() > 1
        ]
        super().setup(trainer, pl_module, stage)


def backbone_finetuning() -> Promises:
    """Return, for each promise, the function that tests whether Lightning's `BackboneFinetuning` keeps it."""

    def make(*_: Path) -> Callback:
        return BackboneFinetuning(freezing.THAWED, train_bn=False, backbone_initial_lr=1e-3)

    return _measured(freezing.PROMISES, freezing.Freezing(until=make, phases=make))


def finetuning_scheduler() -> Promises:
    """Return, for each promise, the function that tests whether finetuning-scheduler keeps it."""
    theirs = freezing.Freezing(
        until=lambda: _scheduler(_schedule({"head": freezing.THAWED, "backbone": 4})), phases=_their_phases
    )
    return _measured(freezing.PROMISES, theirs) | {"generated": _generated}


def _schedule(thawing: Mapping[str, int]) -> dict[int, Any]:
    """Return a schedule with one phase for each item of `thawing`, in this order.

    The key is the start of the names of the parameters that thaw when the phase begins; the value is the epoch in which
    the next phase begins.
    """
    names = [name for name, _ in Small().named_parameters()]
    schedule: dict[int, Any] = {}
    for phase, (start, epoch) in enumerate(thawing.items()):
        chosen = [name for name in names if name.startswith(start)]
        names = [name for name in names if name not in chosen]
        schedule[phase] = {"params": chosen, "max_transition_epoch": epoch}
    return schedule


def _their_phases(folder: Path) -> Callback:
    file = folder / "schedule.yaml"
    file.write_text(yaml.safe_dump(_schedule({"head": 1, "backbone.3": 3, "backbone": 4})))
    return _scheduler(str(file))


def _scheduler(schedule: Any) -> Callback:
    from finetuning_scheduler import FinetuningScheduler

    scheduler: Callback = FinetuningScheduler(
        schedule, epoch_transitions_only=True, restore_best=False, frozen_bn_track_running_stats=False
    )
    return scheduler


def _generated() -> Result:
    """A thawing schedule to start from is generated for any model."""
    from finetuning_scheduler import FinetuningScheduler

    with tempfile.TemporaryDirectory() as name:
        with suppress(SystemExit):
            fit([FinetuningScheduler(gen_ft_sched_only=True, log_dir=name)])
        files = list(Path(name).rglob("*.yaml"))
        phases = yaml.safe_load(files[0].read_text()) if files else {}
    return Result(len(phases) > 1, f"{len(phases)} phases for a model of 3 layers")


def torch_pruning() -> Promises:
    """Return, for each promise, the function that tests whether Torch-Pruning in a callback keeps it."""
    theirs = pruning.Pruning(half=lambda: Channels(0.5), ramp=lambda: Channels(pruning.RAMP[-1], len(pruning.RAMP)))
    return _measured(pruning.PROMISES, theirs) | {
        "zero": partial(_removed, theirs),
        "ramp": partial(pruning.ramp, theirs, lambda model: 1 - model.backbone[0].out_features / 32),
        "channels": partial(pruning.channels, _smaller),
    }


def _removed(library: pruning.Pruning) -> Result:
    watch = Watch(step=lambda model: sum(parameter.numel() for parameter in model.parameters()))
    fit([library.half(), watch], 3)
    return Result(watch.steps[-1] < watch.steps[0], f"{watch.steps[-1]} of {watch.steps[0]} parameters are left")


class Channels(Callback):
    """Prune with Torch-Pruning before epoch 1, or in several steps.

    Args:
        ratio: Fraction of the channels to remove.
        steps: Number of steps, one before each epoch after epoch 0.
    """

    def __init__(self, ratio: float, steps: int = 1) -> None:
        self.ratio, self.steps = ratio, steps
        self.pruner: Any = None

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Prune."""
        if self.pruner is None:
            self.pruner = _pruner(pl_module, torch.zeros(2, 16), self.ratio, self.steps)
        if 1 <= trainer.current_epoch <= self.steps:
            self.pruner.step()


def _pruner(model: nn.Module, inputs: Tensor, ratio: float, steps: int = 1) -> Any:
    import torch_pruning

    *_, classifier = (layer for layer in model.modules() if isinstance(layer, nn.Linear))
    return torch_pruning.pruner.MagnitudePruner(
        model,
        inputs,
        importance=torch_pruning.importance.MagnitudeImportance(p=1),
        pruning_ratio=ratio,
        iterative_steps=steps,
        ignored_layers=[classifier],
        num_heads={layer: layer.num_heads for layer in model.modules() if isinstance(layer, nn.MultiheadAttention)},
    )


def _smaller(model: nn.Module) -> nn.Module:
    _pruner(model, torch.zeros(2, 3, 32, 32), 0.5).step()
    return model


@dataclass(frozen=True)
class Library:
    """A library that is compared.

    Attributes:
        package: Name of its package for pip.
        promises: Returns, for each promise, the function that tests whether the library keeps it.
    """

    package: str
    promises: Callable[[], Promises]


LIBRARIES = {
    "lit-prune": Library("lit-prune", lit_prune),
    "ModelPruning": Library("lightning", model_pruning),
    "Torch-Pruning": Library("torch-pruning", torch_pruning),
    "BackboneFinetuning": Library("lightning", backbone_finetuning),
    "finetuning-scheduler": Library("finetuning-scheduler", finetuning_scheduler),
}
