"""Freeze, prune, fine-tune and unfreeze networks with PyTorch Lightning.

Public names are imported on first use, so that `lit-prune --version` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_prune.version import __version__

if TYPE_CHECKING:
    from lit_prune.callbacks import (
        GlobalL1Pruning,
        GlobalRandomPruning,
        LayerFreezing,
        LocalL1Pruning,
        Pruning,
        PruningRemoval,
        SparsityMonitor,
    )
    from lit_prune.data import CIFAR10DataModule
    from lit_prune.files.compressed import load_compressed
    from lit_prune.models.resnet18 import LitResNet18

_MODULES = {
    "CIFAR10DataModule": "lit_prune.data",
    "GlobalL1Pruning": "lit_prune.callbacks",
    "GlobalRandomPruning": "lit_prune.callbacks",
    "LayerFreezing": "lit_prune.callbacks",
    "LitResNet18": "lit_prune.models.resnet18",
    "LocalL1Pruning": "lit_prune.callbacks",
    "Pruning": "lit_prune.callbacks",
    "PruningRemoval": "lit_prune.callbacks",
    "SparsityMonitor": "lit_prune.callbacks",
    "load_compressed": "lit_prune.files.compressed",
}

__all__ = [
    "CIFAR10DataModule",
    "GlobalL1Pruning",
    "GlobalRandomPruning",
    "LayerFreezing",
    "LitResNet18",
    "LocalL1Pruning",
    "Pruning",
    "PruningRemoval",
    "SparsityMonitor",
    "__version__",
    "load_compressed",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
