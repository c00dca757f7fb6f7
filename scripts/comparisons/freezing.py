"""Measure whether the callbacks of a library keep promises about freezing; each function's docstring is a promise."""

import tempfile
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import distributed

from comparisons.common import STEPS, Result, Watch, fit, same

THAWED = 2  # epoch in which the backbone starts to train


@dataclass(frozen=True)
class Freezing:
    """Callbacks of a library that freezes layers.

    Attributes:
        until: Makes a callback that freezes the backbone, with its normalization layer, until epoch `THAWED`.
        phases: Writes a schedule to a YAML file in a folder, and makes a callback from it: the head trains from the
            start, `backbone.3` from epoch 1, and the rest from epoch 3.
    """

    until: Callable[[], Callback]
    phases: Callable[[Path], Callback]


def norms(library: Freezing) -> Result:
    """A frozen normalization layer keeps its running statistics, and computes with them."""
    watch = Watch(step=lambda model: (model.backbone[1].running_mean.clone(), _alone(model)))
    fit([library.until(), watch], 4)
    means, alone = zip(*watch.steps[: THAWED * STEPS], strict=True)
    kept = all(torch.equal(mean, torch.zeros(32)) for mean in means)
    used = "outputs do not depend" if all(alone) else "outputs depend"
    text = f"running statistics {'stay' if kept else 'change'}; {used} on the rest of the batch"
    return Result(kept and all(alone), text)


def _alone(model: Any) -> bool:
    """Return whether the backbone maps rows to the same outputs in batches of different sizes, in its current mode."""
    data = torch.randn(8, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        whole, part = (deepcopy(model.backbone)(rows)[:4] for rows in (data, data[:4]))
    return torch.allclose(whole, part, atol=1e-5)


def thawed(library: Freezing) -> Result:
    """A run that is resumed after thawing is bit-identical to an uninterrupted run."""
    with tempfile.TemporaryDirectory() as name:
        whole = fit([library.until()], 4, folder=Path(name))
        watch = Watch(step=lambda model: model.backbone[0].weight.detach().clone())
        resumed = fit([library.until(), watch], 4, resume=Path(name) / f"epoch={THAWED}.ckpt")
    if same(whole, resumed):
        return Result(True, "the same bits")
    moves = not torch.equal(watch.steps[0], watch.steps[-1])
    return Result(False, f"other weights, and the backbone {'trains' if moves else 'is frozen again'}")


def ddp(library: Freezing) -> Result:
    """Under DDP, processes have the same weights after thawing."""
    watch = Watch(step=_all_processes)
    fit([library.until(), watch], 4, strategy="ddp", devices=2)
    first, second = watch.steps[-1]
    difference = float((first - second).abs().max())
    before = float((watch.steps[0][0] - watch.steps[-1][0]).abs().max())
    return Result(
        difference == 0 < before,
        f"after epoch 3, weights of the two processes {'are the same' if difference == 0 else 'differ'}",
    )


def _all_processes(model: Any) -> list[torch.Tensor]:
    own = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    found = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(found, own)
    return found


def phases(library: Freezing) -> Result:
    """Layers thaw in the phases of a schedule in a YAML file."""
    names = ["head", "backbone.3", "backbone.0"]
    with tempfile.TemporaryDirectory() as folder:
        watch = Watch(step=lambda model: [model.get_submodule(name).weight.detach().clone() for name in names])
        fit([library.phases(Path(folder)), watch], 4)
    start = [next((epoch for epoch in range(4) if _moves(watch.steps, epoch, n)), None) for n in range(len(names))]
    text = ", ".join(f"`{name}` from epoch {epoch}" for name, epoch in zip(names, start, strict=True))
    return Result(start == [0, 1, 3], f"layers train: {text}")


def _moves(steps: list[Any], epoch: int, layer: int) -> bool:
    first, last = (steps[epoch * STEPS + step][layer] for step in (0, STEPS - 1))
    return not torch.equal(first, last)


PROMISES = {f.__name__: f for f in (norms, thawed, ddp, phases)}
