"""Choose the weights to prune: score them, and compute masks that prune the lowest scores, globally or per layer."""

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor

from lit_prune.errors import InputError, expected, first_few
from lit_prune.functional.allocation import Allocation, allocate, make_allocation
from lit_prune.functional.channels import CoupledChannels
from lit_prune.functional.criteria import Score, make_criterion
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sharding import Split, like, local, part_like
from lit_prune.functional.structure import NM, Structure, make_structure, mark_lowest_groups
from lit_prune.functional.threshold import count_finite, mark_lowest, mark_lowest_of_each


@torch.no_grad()
def compute_masks(
    weights: Sequence[WeightRef],
    amount: float,
    criterion: str | Score = "magnitude",
    structure: str | Structure | CoupledChannels | None = "weight",
    allocation: str | Mapping[str, float] | Allocation | None = "global",
    max_layer_sparsity: float | None = None,
) -> dict[str, Tensor]:
    """Compute masks that prune the lowest scores; `apply_masks` applies them.

    Weights that are pruned already stay pruned and count towards `amount`. If no weight is masked yet, magnitude
    pruning over all layers gives the result of `torch.nn.utils.prune.global_unstructured`, except that ties are broken
    by the order of the layers and, within a layer, of its elements.

    Args:
        weights: Weights to choose from, for example from `weight_layers`.
        amount: Fraction of all these weights to be pruned in total, in [0, 1). With a "global" `allocation`, exactly
            `round(amount * N)` of N weights are pruned. Whole groups of a structure are pruned as long as they fit into
            that number.
        criterion: Which weights are least important: a name in `CRITERIA` of a criterion that needs no data, or a
            function that scores weights. "random" has the seed 0; use `RandomScore(seed)` for another one.
        structure: Which weights are pruned together, by the names of `Pruning`; None means "weight". "channel" prunes
            rows of single layers; `CoupledChannels` prunes channels in all layers that compute them. With it, masks of
            biases and norms are returned, too; `amount` is an upper limit, since every group keeps at least one
            channel; and the fractions of `allocation`, averaged over the layers of a group, are fractions of its
            channels.
        allocation: How much of each layer to prune, by the names of `Pruning`, or its mapping or function: exactly
            `round(fraction * n)` of n weights. None means "global".
        max_layer_sparsity: Largest fraction of a single layer to prune, in (0, 1], rounded down to a number of weights;
            more weights of other layers are pruned instead. None sets no limit. With a function as `allocation`, it
            only caps each fraction, and has no effect with `CoupledChannels`.

    Returns:
        For each layer, by name, a bool tensor of the shape of its weight, true where the weight is kept.

    Raises:
        InputError: If an argument is out of range, if a weight or score is NaN or infinite, or if the limits leave too
            few weights to prune.

    Warns:
        UserWarning: If all weights of a layer are pruned; the message names up to three such layers.
    """
    check_amount(amount)
    check_max_layer_sparsity(max_layer_sparsity)
    score = make_criterion(criterion)
    if structure is not None and not isinstance(structure, CoupledChannels):
        structure = make_structure(structure, amount)
    if allocation is not None and not callable(allocation):
        allocation = make_allocation(allocation, amount, max_layer_sparsity)
        if allocation is not None:
            check_room(weights, amount, max_layer_sparsity)
    candidates = Candidates.of(weights)
    sizes, left = candidates.split.sizes, candidates.left
    pruned = [size - count for size, count in zip(sizes, left, strict=True)]
    limit = 1 if max_layer_sparsity is None else max_layer_sparsity
    room = [max(0, _at_most(limit, size) - gone) for size, gone in zip(sizes, pruned, strict=True)]
    total = round(amount * sum(sizes)) - sum(pruned)
    fractions = None
    if allocation is not None:
        fractions = allocate(allocation, _shapes(weights), amount)
        wanted = [round(part * size) - gone for part, size, gone in zip(fractions, sizes, pruned, strict=True)]
        room = [max(0, min(pair)) for pair in zip(wanted, room, strict=True)]
        total = sum(room)
    if total <= 0:
        masks = candidates.masks()
        return masks | structure.dependent_masks(masks) if isinstance(structure, CoupledChannels) else masks
    scores: Iterable[Tensor] = candidates.scores(score)
    if structure is not None:
        if not candidates.split.is_whole:
            raise expected("weights that are whole, to prune groups", "split ones (FSDP2)", "prune single weights")
        if isinstance(structure, CoupledChannels):
            names, shared = [ref.name for ref in weights], fractions is None
            parts = [float(limit)] * len(weights) if fractions is None else fractions
            masks = candidates.masks_without(structure.mark_lowest(names, scores, total, parts, shared), "")
            return masks | structure.dependent_masks(masks)
        if isinstance(structure, NM):
            scores = [_only_prunable(structure, *pair) for pair in zip(scores, weights, strict=True)]
            room = [min(most, count_finite(values)) for most, values in zip(room, scores, strict=True)]
    if total > sum(room):
        raise _no_room(amount, max_layer_sparsity, structure)
    if structure is not None and not isinstance(structure, NM):
        marks: Iterable[Tensor] = mark_lowest_groups([*scores], structure, [ref.tensor for ref in weights], total, room)
    elif fractions is not None:
        marks = mark_lowest_of_each(scores, room, candidates.split)
    else:
        limits = [None if most == count else most for most, count in zip(room, left, strict=True)]
        marks = mark_lowest([*scores], limits, total, candidates.split)
    hint = "leave such a layer out with `exclude`"
    return candidates.masks_without(marks, hint if fractions is not None else f"set a `max_layer_sparsity`, or {hint}")


def check_amount(amount: Any) -> None:
    """Raise an `InputError` unless `amount` is a number in [0, 1)."""
    if not isinstance(amount, int | float) or isinstance(amount, bool) or not 0 <= amount < 1:
        raise expected("`amount` in [0, 1)", amount, "give the fraction of the chosen weights to prune")


def check_max_layer_sparsity(max_layer_sparsity: Any) -> None:
    """Raise an `InputError` unless `max_layer_sparsity` is None or a number in (0, 1]."""
    number = isinstance(max_layer_sparsity, int | float) and not isinstance(max_layer_sparsity, bool)
    if max_layer_sparsity is not None and not (number and 0 < max_layer_sparsity <= 1):
        hint = "give the largest fraction of a layer to prune, or leave `max_layer_sparsity` out"
        raise expected("`max_layer_sparsity` in (0, 1]", max_layer_sparsity, hint)


def check_room(
    weights: Sequence[WeightRef],
    amount: float,
    max_layer_sparsity: float | None = None,
    structure: Structure | CoupledChannels | None = None,
    allocation: Allocation | None = None,
) -> None:
    """Raise an `InputError` if the limits of the layers leave too few weights to prune; see `compute_masks`."""
    sizes = [ref.tensor.numel() for ref in weights]
    room = [size if max_layer_sparsity is None else _at_most(max_layer_sparsity, size) for size in sizes]
    if round(amount * sum(sizes)) > sum(room):
        raise _no_room(amount, max_layer_sparsity)
    if allocation is not None:
        fractions = allocate(allocation, _shapes(weights), amount)
        wanted = [min(round(part * size), most) for part, size, most in zip(fractions, sizes, room, strict=True)]
        if (
            isinstance(structure, NM)
            and all(current_mask(ref) is None for ref in weights)
            and any(
                count * structure.m > size * (structure.m - structure.n)
                for count, size in zip(wanted, sizes, strict=True)
            )
        ):
            raise _no_room(amount, None, structure)


def _shapes(weights: Sequence[WeightRef]) -> dict[str, tuple[int, ...]]:
    return {ref.name: tuple(ref.tensor.shape) for ref in weights}


def _at_most(fraction: float, size: int) -> int:
    """Return the number of weights in a fraction, rounded down; 0.29 of 100 is 29, although 0.29 * 100 < 29."""
    return math.floor(fraction * size + 1e-6)


def _no_room(amount: float, max_layer_sparsity: float | None, structure: Structure | None = None) -> InputError:
    if isinstance(structure, NM) and (max_layer_sparsity is None or max_layer_sparsity > 1 - structure.n / structure.m):
        what = f"no layer with more than {1 - structure.n / structure.m:.4g} of its weights to prune"
        return expected(what, f"an `amount` of {amount}", 'prune less, or use the allocation "global" or "uniform"')
    what = f"`max_layer_sparsity` to leave room for an `amount` of {amount}"
    return expected(what, max_layer_sparsity, "increase `max_layer_sparsity`, or prune less")


def _only_prunable(structure: NM, scores: Tensor, ref: WeightRef) -> Tensor:
    """Set the scores of weights that N:M sparsity keeps to infinity; those of pruned weights are infinite already."""
    lowest = scores.masked_fill(scores == math.inf, -math.inf).view(ref.tensor.shape)
    return scores.masked_fill(~structure.prunable(lowest).flatten(), math.inf)


@dataclass(frozen=True)
class Candidates:
    """Weights to choose from, by layer."""

    weights: Sequence[WeightRef]
    split: Split
    kept: Sequence[Tensor | None]  # current masks, of the part that this process holds
    left: Sequence[int]  # number of weights that are not pruned yet, in all processes

    @classmethod
    def of(cls, weights: Sequence[WeightRef]) -> "Candidates":
        """Check weights, and count those that are not pruned yet."""
        if not weights:
            raise expected("at least one weight to prune", "none", "choose them with `weight_layers`")
        split = Split([ref.tensor for ref in weights])
        parts = [local(ref.tensor) for ref in weights]
        # `aminmax` returns NaN if there is one, and is faster than `isfinite` for all elements
        bad = [part.numel() > 0 and not all(end.isfinite() for end in torch.aminmax(part)) for part in parts]
        for ref, found in zip(weights, split.sums(bad), strict=True):
            if found:
                what = f"the weight of layer `{ref.name}` to be finite"
                raise expected(what, "NaN or infinity", "training diverged; try a lower learning rate")
        kept = [None if (mask := current_mask(ref)) is None else local(mask) for ref in weights]
        present = [
            part.numel() if mask is None else int(mask.count_nonzero()) for part, mask in zip(parts, kept, strict=True)
        ]
        return cls(weights, split, kept, split.sums_by_weight(present))

    def scores(self, score: Score) -> Iterator[Tensor]:
        """Yield the scores of one layer after the other, flat; infinite where weights are pruned already."""
        tensors = [ref.tensor for ref in self.weights]
        # NumPy does not support bfloat16; float32 represents half precision exactly
        dtype = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
        found: Any = score(tensors)
        if not isinstance(found, Iterable):
            raise expected("a tensor of scores for each weight", found, "return a list, or yield them one by one")
        for index, (ref, scores) in enumerate(zip_longest(self.weights, found)):
            if ref is None:
                raise expected(f"scores for {len(tensors)} weights", "more", "return one tensor for each weight")
            shape = tuple(scores.shape) if isinstance(scores, Tensor) else scores
            if shape != tuple(ref.tensor.shape):
                raise expected(
                    f"scores of shape {tuple(ref.tensor.shape)} for layer `{ref.name}`",
                    str(shape),
                    "return one score for each weight",
                )
            mask, values = self.kept[index], part_like(scores, ref.tensor).to(dtype)
            if mask is not None:
                values = values.masked_fill(~mask, math.inf)
            values = values.flatten()
            finite = count_finite(values) if self.split.counted[index] else 0
            if self.split.sums([finite]) != [self.left[index]]:
                raise expected(
                    f"finite scores for layer `{ref.name}`", "NaN or infinity", "check the function that computes them"
                )
            yield values

    def masks(self) -> dict[str, Tensor]:
        """Return the current masks."""
        return {
            ref.name: like(torch.ones_like(local(ref.tensor), dtype=torch.bool) if mask is None else mask, ref.tensor)
            for ref, mask in zip(self.weights, self.kept, strict=True)
        }

    def masks_without(self, marks: Iterable[Tensor], hint: str) -> dict[str, Tensor]:
        """Return the current masks, with the marked weights pruned as well."""
        masks, left = {}, []
        for ref, mask, marked in zip(self.weights, self.kept, marks, strict=True):
            keep = ~marked.view(local(ref.tensor).shape)
            keep = keep if mask is None else keep & mask
            left.append(int(keep.count_nonzero()))
            masks[ref.name] = like(keep, ref.tensor)
        counts = zip(self.weights, self.left, self.split.sums_by_weight(left), strict=True)
        if emptied := [f"`{ref.name}`" for ref, before, after in counts if before and not after]:
            layers, are, their = ("Layer", "is", "its") if len(emptied) == 1 else ("Layers", "are", "their")
            warnings.warn(
                f"{layers} {first_few(emptied)} {are} about to become entirely zero, so {their} outputs will not "
                f"depend on {their} inputs. HINT: {hint}.",
                stacklevel=4,  # past `torch.no_grad`, to the caller of `compute_masks`
            )
        return masks
