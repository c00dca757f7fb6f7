"""Functions that freeze, prune and measure any `nn.Module`, without a Trainer."""

from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.criteria import RandomScore, Score, magnitude
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.freezing import (
    Frozen,
    ScaledUpdates,
    first_layers,
    freeze,
    modules_still_frozen,
    modules_to_freeze,
)
from lit_prune.functional.masking import apply_masks, hold_masks, mask_gradients, mask_weights, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state, clear_state
from lit_prune.functional.pruning import (
    compute_masks,
    global_l1_masks,
    global_masks,
    global_random_masks,
    local_l1_masks,
    local_masks,
)
from lit_prune.functional.rewinding import rewind, stored_values
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.functional.sparsity import LayerSparsity, SparsityReport, sparsity_report

__all__ = [
    "Frozen",
    "GradientCoverage",
    "LayerSparsity",
    "RandomScore",
    "ScaledUpdates",
    "Score",
    "SparsityReport",
    "WeightRef",
    "apply_masks",
    "clear_pruned_state",
    "clear_state",
    "compute_masks",
    "crop_kernels",
    "first_layers",
    "freeze",
    "global_l1_masks",
    "global_masks",
    "global_random_masks",
    "hold_masks",
    "local_l1_masks",
    "local_masks",
    "magnitude",
    "mask_gradients",
    "mask_weights",
    "modules_still_frozen",
    "modules_to_freeze",
    "remove_masks",
    "rewind",
    "sparsity_report",
    "stored_values",
    "weight_layers",
]
