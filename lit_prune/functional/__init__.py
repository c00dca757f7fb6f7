"""Functions that freeze, prune and measure any `nn.Module`, without a Trainer."""

from lit_prune.functional.allocation import Allocation, by_glob, erk, uniform
from lit_prune.functional.calibration import Calibration
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.criteria import (
    CRITERIA,
    SNIP,
    Fisher,
    GraSP,
    Movement,
    RandomScore,
    Reinitialised,
    Score,
    Shuffled,
    SynFlow,
    Taylor,
    l2,
    lamp,
    magnitude,
    make_criterion,
)
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
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.rewinding import rewind, stored_values
from lit_prune.functional.schedule import Schedule, sparsity_at
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.functional.sparsity import LayerSparsity, SparsityReport, sparsity_report
from lit_prune.functional.structure import NM, Block, Channel, Kernel, Structure

__all__ = [
    "CRITERIA",
    "NM",
    "SNIP",
    "Allocation",
    "Block",
    "Calibration",
    "Channel",
    "Fisher",
    "Frozen",
    "GraSP",
    "GradientCoverage",
    "Kernel",
    "LayerSparsity",
    "Movement",
    "RandomScore",
    "Reinitialised",
    "ScaledUpdates",
    "Schedule",
    "Score",
    "Shuffled",
    "SparsityReport",
    "Structure",
    "SynFlow",
    "Taylor",
    "WeightRef",
    "apply_masks",
    "by_glob",
    "clear_pruned_state",
    "clear_state",
    "compute_masks",
    "crop_kernels",
    "erk",
    "first_layers",
    "freeze",
    "hold_masks",
    "l2",
    "lamp",
    "magnitude",
    "make_criterion",
    "mask_gradients",
    "mask_weights",
    "modules_still_frozen",
    "modules_to_freeze",
    "remove_masks",
    "rewind",
    "sparsity_at",
    "sparsity_report",
    "stored_values",
    "uniform",
    "weight_layers",
]
