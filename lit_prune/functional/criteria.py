"""Criteria: score weights; the lowest scores are pruned first."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_prune.errors import check_choice

Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""Function that returns scores for a list of weights, in tensors of the same shapes; the lowest are pruned first.

It receives the parameters themselves, so that it can read `weight.grad`, and is called under `torch.no_grad`. Scores of
weights that are masked already are ignored. To save memory it may `yield` the scores one by one. For weights that are
split between processes (DTensor), scores may be split likewise, or whole and the same in every process.
"""


def magnitude(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their absolute value (L1, "magnitude pruning")."""
    return (weight.abs() for weight in weights)


@dataclass(frozen=True)
class RandomScore:
    """Score weights at random, with the same result on every device, in every process and at every call.

    The global random state is neither used nor changed.
    """

    seed: int = 0

    def __call__(self, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """Draw a score in [0, 1) for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        for weight in weights:
            scores = torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu")
            yield scores.to(weight.device)


def l2(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their square, so that groups are compared by their L2 norm."""
    return (weight.square() for weight in weights)


def lamp(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their square over the sum of all squares of their layer that are at least as large.

    LAMP: Lee et al., "Layer-adaptive sparsity for the magnitude-based pruning", 2021.
    """
    for weight in weights:
        squares, order = weight.square().flatten().sort()
        left = squares.flip(0).cumsum(0).flip(0).clamp_min(torch.finfo(squares.dtype).tiny)
        yield torch.empty_like(squares).scatter_(0, order, squares / left).view(weight.shape)


# criterion for a random seed
CRITERIA: dict[str, Callable[[int], Score]] = {
    "magnitude": lambda seed: magnitude,
    "l2": lambda seed: l2,
    "random": RandomScore,
    "lamp": lambda seed: lamp,
}


def make_criterion(criterion: Any, seed: int = 0) -> Score:
    """Return the function for the `criterion` argument of `Pruning`: a name in `CRITERIA`, or a function.

    Raises:
        InputError: If it is neither.
    """
    if callable(criterion):
        found: Score = criterion
        return found
    check_choice("criterion", criterion, list(CRITERIA))
    return CRITERIA[criterion](seed)
