"""Custom criteria, as shown in docs/how-to/criterion.md, and all pruners that share one suite of tests."""

from collections.abc import Iterable, Sequence
from functools import partial
from math import prod
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_prune import ACDC, SET, GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning, Pruning, RigL
from lit_prune.functional import weight_layers
from lit_prune.functional.allocation import allocate


class LampPruning(Pruning):
    """Squared weight, divided by the sum of the squares of all weights of its layer that are at least as large."""

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        for weight in weights:
            squares, order = weight.square().flatten().sort()
            left = squares.flip(0).cumsum(0).flip(0).clamp_min(1e-30)
            yield torch.empty_like(squares).scatter_(0, order, squares / left).view(weight.shape)


class TaylorPruning(Pruning):
    """|weight x gradient|, summed over steps: a first-order estimate of how much the loss depends on each weight."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        super().setup(trainer, pl_module, stage)
        self.missed: dict[str, Tensor] = {}

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        for ref in self.weights:
            if ref.tensor.grad is not None:
                now = (ref.tensor.detach() * ref.tensor.grad).abs()
                self.missed[ref.name] = self.missed.get(ref.name, torch.zeros(())).to(now.device) + now

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        for ref, weight in zip(self.weights, weights, strict=True):
            missed = self.missed.get(ref.name, weight.abs())  # before the first step, score weights by magnitude
            yield missed.to(weight.device)

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"missed": self.missed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        self.missed = dict(state_dict["missed"])


# each takes the arguments of `Pruning`; those that rewind start to prune at epoch 1
CRITERIA: dict[str, Any] = {
    "global-l1": GlobalL1Pruning,
    "global-random": GlobalRandomPruning,
    "local-l1": LocalL1Pruning,
    "lamp": LampPruning,
}
REWINDING: dict[str, Any] = {
    "rewinding": partial(GlobalL1Pruning, start_epoch=1, rewind_to=0),
    "local-rewinding": partial(LocalL1Pruning, start_epoch=1, rewind_to=0),
}
PRUNERS: dict[str, Any] = CRITERIA | REWINDING
# without a start and an end; their masks change, except those of AC/DC in trainings of two epochs
DYNAMIC: dict[str, Any] = {
    "set": partial(SET, every_n_steps=3, allocation="uniform"),
    "rigl": partial(RigL, every_n_steps=3, allocation="uniform"),
    "acdc": partial(ACDC, start_epoch=0, phase_epochs=1),
}


def pruned_at(pruner: Pruning, model: nn.Module, sparsity: float) -> int:
    """Return the number of zeros at a sparsity, among the weights that a pruner chooses."""
    shapes = {ref.name: tuple(ref.tensor.shape) for ref in weight_layers(model, pruner.layers, pruner.exclude)}
    if pruner.allocation is None:
        return round(sparsity * sum(map(prod, shapes.values())))
    shares = allocate(pruner.allocation, shapes, pruner.amount)
    return sum(
        round(sparsity * (share / pruner.amount) * prod(shapes[name]))
        for name, share in zip(shapes, shares, strict=True)
    )
