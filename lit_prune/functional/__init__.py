"""Pure functions on any `nn.Module`, for those without a Trainer."""

from lit_prune.functional.selection import WeightRef, weight_layers

__all__ = ["WeightRef", "weight_layers"]
