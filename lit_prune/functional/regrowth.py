"""Dynamic sparse training: drop weights of a sparse model, and grow as many others."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lit_prune.errors import expected
from lit_prune.functional.criteria import Score, magnitude
from lit_prune.functional.pruning import Candidates
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sharding import like, local, part_like
from lit_prune.functional.threshold import mark_lowest_of_each


def drop_fraction_at(progress: float, first: float) -> float:
    """Return the fraction of the weights to replace: `first` at progress 0, falling to 0 at 1 along a cosine."""
    return first / 2 * (1 + math.cos(math.pi * progress))


@torch.no_grad()
def regrow_masks(
    weights: Sequence[WeightRef], fraction: float, grow: Score
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Compute masks that replace the smallest weights of each layer by pruned ones; the sparsity of no layer changes.

    Of each layer with n weights that are not pruned, the `round(fraction * n)` of smallest magnitude are dropped, but
    no more than are pruned, so a dense layer keeps all its weights. As many pruned weights grow instead, those with the
    highest `grow` scores; a weight that was just dropped may grow again (Mocanu et al., "Scalable training of
    artificial neural networks with adaptive sparse connectivity", 2018; Evci et al., "Rigging the lottery", 2020). Ties
    are broken by the order of the elements.

    Args:
        weights: Masked weights.
        fraction: Fraction of the unpruned weights of each layer to drop, in [0, 1).
        grow: Function that scores weights; pruned weights with the highest scores are grown.

    Returns:
        Two masks for each layer, by name: without the dropped weights, and with the grown ones. To start grown weights
        at zero, apply the first before the second.

    Raises:
        InputError: If a weight or score is NaN or infinite.
    """
    candidates = Candidates.of(weights)
    sizes = candidates.split.sizes
    counts = [min(round(fraction * left), size - left) for size, left in zip(sizes, candidates.left, strict=True)]
    dropped = mark_lowest_of_each(candidates.scores(magnitude), counts, candidates.split)
    kept = candidates.masks_without(dropped, "replace a smaller fraction of the weights")
    tensors = [ref.tensor for ref in weights]
    dtypes = [torch.promote_types(tensor.dtype, torch.float32) for tensor in tensors]
    values = [-part_like(score, w).to(dtype) for score, w, dtype in zip(grow(tensors), tensors, dtypes, strict=True)]
    # counted in all processes, so that all of them raise the error
    for ref, found in zip(weights, candidates.split.sums([not part.isfinite().all() for part in values]), strict=True):
        if found:
            raise expected(f"finite scores of `{ref.name}` to grow weights", "NaN or infinity", "check the gradients")
    inactive = zip(weights, values, strict=True)
    scores = (part.masked_fill(local(kept[ref.name]), math.inf).flatten() for ref, part in inactive)
    grown = mark_lowest_of_each(scores, counts, candidates.split)
    return kept, {
        ref.name: like(local(kept[ref.name]) | marked.view(local(ref.tensor).shape), ref.tensor)
        for ref, marked in zip(weights, grown, strict=True)
    }
