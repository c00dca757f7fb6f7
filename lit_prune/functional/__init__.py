"""Pure functions on any `nn.Module`, for those without a Trainer."""

from lit_prune.functional.freezing import Frozen, first_layers, freeze, modules_to_freeze
from lit_prune.functional.selection import WeightRef, weight_layers

__all__ = ["Frozen", "WeightRef", "first_layers", "freeze", "modules_to_freeze", "weight_layers"]
