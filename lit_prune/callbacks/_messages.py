"""Say which weights a pruning callback leaves out, and warn of what its user may not expect."""

from collections.abc import Sequence

from lightning_utilities.core.rank_zero import rank_zero_info, rank_zero_warn
from torch import nn

from lit_prune.errors import shorten
from lit_prune.functional.averages import frozen_copies
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef, parameters_outside_averages, passed_over


def describe_choice(owner: str, model: nn.Module, weights: Sequence[WeightRef]) -> None:
    """Print which matrices are not among the chosen weights, and warn of copies that are.

    Args:
        owner: Callback that the messages name.
        model: Model whose weights were chosen without `layers` or `parameters`.
        weights: The chosen weights.
    """
    if left := passed_over(model):
        total = sum(value.numel() for value in parameters_outside_averages(model).values())
        share = sum(value.numel() for value in left.values()) / total
        rank_zero_info(
            f"{owner} leaves out {share:.1%} of the parameters, since they are in norms or embeddings or not called "
            f"weight: {shorten(', '.join(left))}. Choose parameters by name with `parameters`."
        )
    chosen = {ref.module for ref in weights}
    for copy, source in frozen_copies(model):
        if any(module in chosen for module in model.get_submodule(copy).modules()):
            rank_zero_warn(
                f"`{copy}` seems to be a copy of `{source}` that is not trained. Its weights are pruned too, and count "
                f"towards `amount`. HINT: leave it out with `exclude={copy!r}`."
            )


def warn_of_lost_zeros(owner: str, weights: Sequence[WeightRef]) -> None:
    """Warn if masked weights are not zero, because a checkpoint from before the pruning was loaded."""
    masked = [(ref.tensor, mask) for ref in weights if (mask := current_mask(ref)) is not None]
    if not any(tensor[~mask].any() for tensor, mask in masked):
        return
    total = sum(ref.tensor.numel() for ref in weights)
    zeros = total - sum(int(ref.tensor.count_nonzero()) for ref in weights)
    pruned = sum(int((~mask).count_nonzero()) for _, mask in masked)
    rank_zero_warn(
        f"{owner} has pruned {pruned / total:.2%} of the weights, but of the loaded weights only {zeros / total:.2%} "
        "are zero: their checkpoint was written before the pruning. HINT: choose a checkpoint of a pruned epoch; "
        "docs/callbacks.md shows how `ModelCheckpoint` does that."
    )
