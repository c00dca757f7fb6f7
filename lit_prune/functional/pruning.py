"""Which weights to prune: scores, one threshold over all layers, and the masks that follow from it."""

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
from lit_prune.functional.threshold import lowest

__all__ = [
    "SCHEDULES",
    "RandomScore",
    "Score",
    "check_amount",
    "check_cap",
    "check_room",
    "global_l1_masks",
    "global_masks",
    "global_random_masks",
    "magnitude",
    "sparsity_at",
]

Score = Callable[[Sequence[Tensor]], Iterable[Tensor]]
"""Weights in, scores out: for each weight a tensor of its shape; the lowest scores are pruned first.

Pure, because it is called twice: the scores of all layers need not be held at once. It may be a generator function.
"""

SCHEDULES = ("cubic", "linear")


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
    if not weights:
        raise expected("at least one weight to prune", "none", "choose them with `weight_layers`")
    for ref in weights:
        # one pass, where `isfinite` would take three; NaN reaches both ends
        if ref.tensor.numel() and not all(end.isfinite() for end in torch.aminmax(ref.tensor.detach())):
            raise expected(
                f"the weight of layer `{ref.name}` to be finite", "NaN or infinity", "find out where training diverged"
            )
    kept = {ref.name: current_mask(ref) for ref in weights}
    sizes = [ref.tensor.numel() for ref in weights]
    left = [
        size if mask is None else int(mask.count_nonzero()) for size, mask in zip(sizes, kept.values(), strict=True)
    ]
    room = left
    if max_layer_sparsity is not None:
        least = [size - math.floor(max_layer_sparsity * size) for size in sizes]
        room = [max(0, count - floor) for count, floor in zip(left, least, strict=True)]
    wanted = round(amount * sum(sizes)) - (sum(sizes) - sum(left))
    if wanted <= 0:
        return {ref.name: _or_ones(kept[ref.name], ref) for ref in weights}
    if wanted > sum(room):
        raise _no_room(amount, max_layer_sparsity)
    masks = {}
    marks = lowest(lambda: _scores(weights, kept, score), room, wanted)
    for ref, marked, count in zip(weights, marks, left, strict=True):
        mask = kept[ref.name]
        keep = ~marked
        masks[ref.name] = keep.view(ref.tensor.shape) if mask is None else mask.masked_scatter(mask, keep)
        if count and int(marked.count_nonzero()) == count:
            warnings.warn(
                f"Layer `{ref.name}` is about to become entirely zero, so that nothing passes through it any more."
                " HINT: limit `max_layer_sparsity`, or leave the layer out with `exclude`.",
                stacklevel=2,
            )
    return masks


def sparsity_at(
    epoch: int, amount: float, start_epoch: int = 0, end_epoch: int | None = None, schedule: str = "cubic"
) -> float:
    """Return the sparsity that a schedule calls for in an epoch.

    Between `start_epoch`, where it is 0, and `end_epoch`, where it is `amount`, "linear" rises evenly; "cubic" is
    `amount * (1 - (1 - t)**3)` at the fraction t of the way (Zhu & Gupta, "To prune, or not to prune", 2017).

    Args:
        epoch: Counted from 0.
        amount: The sparsity to reach.
        start_epoch: Where the rise begins, or, without `end_epoch`, where all of it happens.
        end_epoch: Where `amount` is reached. None prunes once.
        schedule: "cubic" or "linear".
    """
    if epoch < start_epoch:
        return 0.0
    if end_epoch is None or epoch >= end_epoch:
        return amount
    way = (epoch - start_epoch) / (end_epoch - start_epoch)
    return amount * (way if schedule == "linear" else 1 - (1 - way) ** 3)


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


def _scores(weights: Sequence[WeightRef], kept: dict[str, Tensor | None], score: Score) -> Iterator[Tensor]:
    """Scores of what is not pruned yet, one layer after the other, each flat in the order of its elements."""
    tensors = [ref.tensor.detach() for ref in weights]
    # NumPy has no bfloat16; half precision is exact in single
    dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    for ref, scores in zip(weights, score(tensors), strict=True):
        if scores.shape != ref.tensor.shape:
            raise expected(
                f"scores of shape {tuple(ref.tensor.shape)} for layer `{ref.name}`",
                str(tuple(scores.shape)),
                "return one score for each weight",
            )
        mask = kept[ref.name]
        values = scores.flatten() if mask is None else scores[mask]
        yield values.to(dtype)


def _or_ones(mask: Tensor | None, ref: WeightRef) -> Tensor:
    return torch.ones_like(ref.tensor, dtype=torch.bool) if mask is None else mask
