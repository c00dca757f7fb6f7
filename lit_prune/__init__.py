"""Freeze, prune, fine-tune and unfreeze networks with PyTorch Lightning.

Public names are imported on first use, so that `lit-prune --version` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lit_prune.version import __version__ as __version__

if TYPE_CHECKING:
    from lit_prune.accelerated.accelerate import accelerate as accelerate
    from lit_prune.accelerated.files import load_accelerated as load_accelerated
    from lit_prune.accelerated.files import save_accelerated as save_accelerated
    from lit_prune.callbacks import ACDC as ACDC
    from lit_prune.callbacks import SET as SET
    from lit_prune.callbacks import Distillation as Distillation
    from lit_prune.callbacks import GlobalL1Pruning as GlobalL1Pruning
    from lit_prune.callbacks import GlobalRandomPruning as GlobalRandomPruning
    from lit_prune.callbacks import LayerFreezing as LayerFreezing
    from lit_prune.callbacks import LocalL1Pruning as LocalL1Pruning
    from lit_prune.callbacks import Pruning as Pruning
    from lit_prune.callbacks import PruningRemoval as PruningRemoval
    from lit_prune.callbacks import RigL as RigL
    from lit_prune.callbacks import SparsityMonitor as SparsityMonitor
    from lit_prune.data import CIFAR10DataModule as CIFAR10DataModule
    from lit_prune.files.compressed import load_compressed as load_compressed
    from lit_prune.models.resnet18 import LitResNet18 as LitResNet18

# module from which each public name is imported
_MODULES = {
    "ACDC": "lit_prune.callbacks",
    "RigL": "lit_prune.callbacks",
    "SET": "lit_prune.callbacks",
    "CIFAR10DataModule": "lit_prune.data",
    "Distillation": "lit_prune.callbacks",
    "GlobalL1Pruning": "lit_prune.callbacks",
    "GlobalRandomPruning": "lit_prune.callbacks",
    "LayerFreezing": "lit_prune.callbacks",
    "LitResNet18": "lit_prune.models.resnet18",
    "LocalL1Pruning": "lit_prune.callbacks",
    "Pruning": "lit_prune.callbacks",
    "PruningRemoval": "lit_prune.callbacks",
    "SparsityMonitor": "lit_prune.callbacks",
    "accelerate": "lit_prune.accelerated.accelerate",
    "load_accelerated": "lit_prune.accelerated.files",
    "load_compressed": "lit_prune.files.compressed",
    "save_accelerated": "lit_prune.accelerated.files",
}
__all__ = ["__version__", *_MODULES]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
