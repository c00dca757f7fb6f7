"""Callbacks for any LightningModule: each decides when, `lit_prune.functional` decides what."""

from lit_prune.callbacks.freezing import LayerFreezing
from lit_prune.callbacks.monitor import SparsityMonitor
from lit_prune.callbacks.pruning import GlobalL1Pruning, GlobalRandomPruning
from lit_prune.callbacks.removal import PruningRemoval

__all__ = ["GlobalL1Pruning", "GlobalRandomPruning", "LayerFreezing", "PruningRemoval", "SparsityMonitor"]
