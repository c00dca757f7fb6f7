"""Messages of pruning callbacks, for example about parameters that they leave out."""

from collections.abc import Collection, Sequence

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import nn

from lit_prune.functional.averages import find_untrained_copies
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef, describe_passed_over
from lit_prune.functional.sharding import Split, local
from lit_prune.functional.sparsity import count_zeros


def print_choice(owner: str, model: nn.Module, weights: Sequence[WeightRef]) -> None:
    """Print which parameters of two or more dimensions a callback leaves out; warn if it prunes untrained copies.

    Args:
        owner: Name of the callback, for the messages.
        model: Model whose weights were chosen without `layers` or `parameters`.
        weights: The chosen weights.
    """
    if (left := describe_passed_over(model)) is not None:
        rank_zero_info(f"{owner} leaves out {left}. Choose parameters by name with `parameters`.")
    advice = "Its weights are pruned too, and count towards `amount`. HINT: leave it out with `exclude={!r}`."
    warn_of_copies(model, {ref.module for ref in weights}, advice)


def warn_of_copies(model: nn.Module, chosen: Collection[nn.Module], advice: str) -> None:
    """Warn if chosen modules are in an untrained copy of another part of the model.

    Args:
        model: The model.
        chosen: Modules that a callback freezes, prunes or counts.
        advice: What this means and what to do; `{!r}` stands for the name of the copy.
    """
    for copy, source in find_untrained_copies(model):
        if any(module in chosen for module in model.get_submodule(copy).modules()):
            rank_zero_warn(f"`{copy}` is not trained and seems to be a copy of `{source}`. {advice.format(copy)}")


def warn_of_lost_zeros(owner: str, weights: Sequence[WeightRef]) -> None:
    """Warn if masked weights are not zero, because weights from before pruning have been loaded."""
    if all(current_mask(ref) is None for ref in weights):
        return
    zeros, pruned, lost = [], [], []
    for ref in weights:
        nonzero, mask = local(ref.tensor) != 0, current_mask(ref)
        kept = torch.ones_like(nonzero) if mask is None else local(mask)
        zeros.append(count_zeros(nonzero))
        pruned.append(count_zeros(kept))
        lost.append(count_zeros(~nonzero | kept))
    split = Split([ref.tensor for ref in weights])
    zero, masked, missing = (sum(split.sums_by_weight(counts)) / sum(split.sizes) for counts in (zeros, pruned, lost))
    if not missing:
        return
    rank_zero_warn(
        f"{owner} has pruned {masked:.2%} of the weights, but only {zero:.2%} of the loaded weights are zero: the "
        "checkpoint was written before pruning. HINT: choose a checkpoint written after pruning; "
        "docs/how-to/callbacks.md shows how to set up `ModelCheckpoint` for this."
    )
