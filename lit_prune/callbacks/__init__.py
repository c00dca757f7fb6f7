"""Callbacks that freeze, prune and monitor any LightningModule, built on the functions of `lit_prune.functional`."""

from lit_prune.callbacks._pruning import Pruning
from lit_prune.callbacks.distillation import Distillation
from lit_prune.callbacks.freezing import LayerFreezing
from lit_prune.callbacks.monitor import SparsityMonitor
from lit_prune.callbacks.pruning import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning
from lit_prune.callbacks.removal import PruningRemoval
from lit_prune.callbacks.sparse_training import ACDC, SET, RigL

__all__ = [
    "ACDC",
    "SET",
    "Distillation",
    "GlobalL1Pruning",
    "GlobalRandomPruning",
    "LayerFreezing",
    "LocalL1Pruning",
    "Pruning",
    "PruningRemoval",
    "RigL",
    "SparsityMonitor",
]
