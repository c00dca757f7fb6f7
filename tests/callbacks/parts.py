"""Parts of a pruner of one's own, as docs/how-to/criterion.md shows them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor


def relative_magnitude(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their magnitude, relative to the largest of their layer; the lowest scores are pruned first."""
    return (weight.abs() / weight.abs().max() for weight in weights)


def convolutions_first(shapes: Mapping[str, tuple[int, ...]], amount: float) -> dict[str, float]:
    """Prune the fraction `amount` of convolutions, and half of it of linear layers."""
    return {name: amount if len(shape) > 2 else amount / 2 for name, shape in shapes.items()}


def slow_start(progress: float) -> float:
    """Return the fraction of `amount` that is pruned after this part of the ramp, between 0 and 1."""
    return progress**2


class Columns:
    """Prune all weights together that read the same input channel."""

    def fold(self, weight: Tensor) -> Tensor:  # each row is a group
        return weight.transpose(0, 1).flatten(1)

    def fits(self, shape: Sequence[int]) -> bool:  # which weights have such groups
        return len(shape) > 1


class GradientNorm:
    """Score weights by the norm of their gradients over some batches."""

    batches = 8

    def measure(self, weights, calibration):
        gradients = [torch.autograd.grad(loss, weights) for loss in calibration.losses()]
        self.scores = [torch.stack(found).norm(dim=0) for found in zip(*gradients, strict=True)]

    def __call__(self, weights):
        return self.scores


class SummedGradients:
    """Score weights by the sum of |weight x gradient| over all steps so far."""

    def __init__(self):
        self.sums = {}

    def observe(self, names, weights):
        for name, weight in zip(names, weights, strict=True):
            gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
            past = self.sums.get(name, torch.zeros_like(weight)).to(weight.device)  # checkpoints are loaded to the CPU
            self.sums[name] = past + (weight.detach() * gradient).abs()

    def __call__(self, weights):
        return self.sums.values() or [weight.abs() for weight in weights]

    def state_dict(self):
        return self.sums

    def load_state_dict(self, state):
        self.sums = dict(state)
