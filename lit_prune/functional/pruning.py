"""Which weights to prune: scores, the lowest of them over all layers or in each, and the masks that follow."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lit_prune.errors import InputError, expected
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.threshold import lowest, lowest_of_each

__all__ = [
    "RandomScore",
    "Score",
    "check_amount",
    "check_cap",
    "check_room",
    "global_l1_masks",
    "global_masks",
    "global_random_masks",
    "local_l1_masks",
    "local_masks",
    "magnitude",
]

Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""Weights in, scores out: for each weight a tensor of its shape; the lowest scores are pruned first.

The weights are the parameters themselves, so that `weight.grad` can be read, under `torch.no_grad`. What is masked is
zero in them and keeps no score. Pure, because it is called twice: the scores of all layers need not be held at once. It
may be a generator function.
"""


def magnitude(weights: Sequence[Tensor]) -> Iterator[Tensor]:
    """Score weights by their absolute value (L1, "magnitude pruning")."""
    return (weight.abs() for weight in weights)


@dataclass(frozen=True)
class RandomScore:
    """Score weights at random, the same on every device, in every process and at every call.

    The global random state is neither used nor changed.

    Args:
        seed: Of the scores.
    """

    seed: int = 0

    def __call__(self, weights: Sequence[Tensor]) -> Iterator[Tensor]:
        """Draw a score in [0, 1) for each weight."""
        generator = torch.Generator().manual_seed(self.seed)
        for weight in weights:
            scores = torch.rand(weight.shape, generator=generator, dtype=torch.float32, device="cpu")
            yield scores.to(weight.device)


def global_l1_masks(
    weights: Sequence[WeightRef], amount: float, max_layer_sparsity: float | None = None
) -> dict[str, Tensor]:
    """Prune the weights of the smallest magnitude, over all layers together; see `global_masks`."""
    return global_masks(weights, amount, magnitude, max_layer_sparsity)


def global_random_masks(
    weights: Sequence[WeightRef], amount: float, seed: int = 0, max_layer_sparsity: float | None = None
) -> dict[str, Tensor]:
    """Prune weights at random, over all layers together, the control of every pruning study; see `global_masks`."""
    return global_masks(weights, amount, RandomScore(seed), max_layer_sparsity)


@torch.no_grad()
def global_masks(
    weights: Sequence[WeightRef], amount: float, score: Score = magnitude, max_layer_sparsity: float | None = None
) -> dict[str, Tensor]:
    """Compute the masks with which the lowest scores among all the weights are pruned.

    What is pruned already stays pruned and counts, so masks only shrink. For weights that are not masked the
    result is that of `torch.nn.utils.prune.global_unstructured`, which leaves ties to chance; here they are
    pruned in the order of the layers and, within a layer, of its elements. Nothing is changed: see `apply_masks`.

    Args:
        weights: What to choose from, for example from `weight_layers`.
        amount: In [0, 1): the fraction of all these weights that is to be zero, `round(amount * N)` of N, exactly.
        score: Weights in, scores out.
        max_layer_sparsity: In (0, 1]: prune at most this fraction of any layer, rounded down, and take the rest
            elsewhere. None sets no limit.

    Returns:
        For each layer, by its name, a bool tensor of the shape of its weight, true where the weight is kept.

    Raises:
        InputError: If an argument is out of range, a weight or score is NaN or infinite, or the limit
            leaves too few weights to prune.

    Warns:
        UserWarning: If a layer is about to lose its last weight; the message names it.
    """
    check_amount(amount)
    check_cap(max_layer_sparsity)
    now = _Now.of(weights)
    room = now.left
    if max_layer_sparsity is not None:
        least = [size - math.floor(max_layer_sparsity * size) for size in now.sizes]
        room = [max(0, count - floor) for count, floor in zip(now.left, least, strict=True)]
    wanted = round(amount * sum(now.sizes)) - (sum(now.sizes) - sum(now.left))
    if wanted <= 0:
        return now.masks()
    if wanted > sum(room):
        raise _no_room(amount, max_layer_sparsity)
    marks = lowest(lambda: now.scores(score), room, wanted)
    return now.without(marks, "limit `max_layer_sparsity`, or leave the layer out with `exclude`")


def local_l1_masks(weights: Sequence[WeightRef], amount: float) -> dict[str, Tensor]:
    """Prune the weights of the smallest magnitude of each layer, all layers to the same amount; see `local_masks`."""
    return local_masks(weights, amount, magnitude)


@torch.no_grad()
def local_masks(weights: Sequence[WeightRef], amount: float, score: Score = magnitude) -> dict[str, Tensor]:
    """Compute the masks with which the lowest scores of every layer are pruned, all layers to the same amount.

    In all else it is `global_masks`.

    Args:
        weights: What to choose from.
        amount: In [0, 1): the fraction of each weight that is to be zero, `round(amount * n)` of n, exactly.
        score: Weights in, scores out; how scores of different layers compare does not matter.

    Returns:
        For each layer, by its name, a bool tensor of the shape of its weight, true where the weight is kept.

    Raises:
        InputError: If an argument is out of range, or a weight or score is NaN or infinite.

    Warns:
        UserWarning: If a layer is about to lose its last weight; the message names it.
    """
    check_amount(amount)
    now = _Now.of(weights)
    wanted = [max(0, round(amount * n) - (n - left)) for n, left in zip(now.sizes, now.left, strict=True)]
    if not any(wanted):
        return now.masks()
    return now.without(lowest_of_each(now.scores(score), wanted), "leave the layer out with `exclude`")


def check_amount(amount: Any) -> None:
    """Refuse what is not a sparsity to reach.

    Raises:
        InputError: If `amount` is not a number in [0, 1).
    """
    if not _is_number(amount) or not 0 <= amount < 1:
        raise expected("`amount` in [0, 1)", amount, "give the fraction of the chosen weights that is to be zero")


def check_cap(max_layer_sparsity: Any) -> None:
    """Refuse what is not a limit on the sparsity of a layer.

    Raises:
        InputError: If `max_layer_sparsity` is neither None nor a number in (0, 1].
    """
    if max_layer_sparsity is not None and not (_is_number(max_layer_sparsity) and 0 < max_layer_sparsity <= 1):
        raise expected(
            "`max_layer_sparsity` in (0, 1]",
            max_layer_sparsity,
            "give the largest fraction of a layer that may be zero, or leave it out",
        )


def check_room(weights: Sequence[WeightRef], amount: float, max_layer_sparsity: float | None) -> None:
    """Refuse a limit under which an amount can never be reached, before hours of training meet it.

    Raises:
        InputError: If all layers at their limit together are less sparse than `amount`.
    """
    sizes = [ref.tensor.numel() for ref in weights]
    if max_layer_sparsity is not None and round(amount * sum(sizes)) > sum(
        math.floor(max_layer_sparsity * size) for size in sizes
    ):
        raise _no_room(amount, max_layer_sparsity)


def _no_room(amount: float, max_layer_sparsity: float | None) -> InputError:
    return expected(
        f"`max_layer_sparsity` to leave room for an `amount` of {amount}",
        max_layer_sparsity,
        "raise the limit or prune less",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


@dataclass(frozen=True)
class _Now:
    """What is pruned now, and what there is to prune."""

    weights: Sequence[WeightRef]
    kept: Sequence[Tensor | None]
    sizes: Sequence[int]
    left: Sequence[int]

    @classmethod
    def of(cls, weights: Sequence[WeightRef]) -> "_Now":
        if not weights:
            raise expected("at least one weight to prune", "none", "choose them with `weight_layers`")
        for ref in weights:
            # one pass, where `isfinite` would take three; NaN reaches both ends
            if ref.tensor.numel() and not all(end.isfinite() for end in torch.aminmax(ref.tensor.detach())):
                what = f"the weight of layer `{ref.name}` to be finite"
                raise expected(what, "NaN or infinity", "find out where training diverged")
        kept = [current_mask(ref) for ref in weights]
        sizes = [ref.tensor.numel() for ref in weights]
        left = [size if mask is None else int(mask.count_nonzero()) for size, mask in zip(sizes, kept, strict=True)]
        return cls(weights, kept, sizes, left)

    def scores(self, score: Score) -> Iterator[Tensor]:
        """Scores of what is not pruned yet, one layer after the other, each flat in the order of its elements."""
        tensors = [ref.tensor for ref in self.weights]
        # NumPy has no bfloat16; half precision is exact in single
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        for ref, mask, scores in zip(self.weights, self.kept, score(tensors), strict=True):
            if scores.shape != ref.tensor.shape:
                raise expected(
                    f"scores of shape {tuple(ref.tensor.shape)} for layer `{ref.name}`",
                    str(tuple(scores.shape)),
                    "return one score for each weight",
                )
            values = scores.detach().flatten() if mask is None else scores.detach()[mask]
            yield values.to(dtype)

    def masks(self) -> dict[str, Tensor]:
        """The masks as they are."""
        return {
            ref.name: torch.ones_like(ref.tensor, dtype=torch.bool) if mask is None else mask
            for ref, mask in zip(self.weights, self.kept, strict=True)
        }

    def without(self, marks: Iterable[Tensor], hint: str) -> dict[str, Tensor]:
        """The masks without what is marked of each layer, where what is pruned already has no mark."""
        masks = {}
        for ref, mask, count, marked in zip(self.weights, self.kept, self.left, marks, strict=True):
            keep = ~marked
            masks[ref.name] = keep.view(ref.tensor.shape) if mask is None else mask.masked_scatter(mask, keep)
            if count and not keep.any():
                warnings.warn(
                    f"Layer `{ref.name}` is about to become entirely zero, so that nothing passes through it any more."
                    f" HINT: {hint}.",
                    stacklevel=4,  # past `torch.no_grad`, to who asked for the masks
                )
        return masks
