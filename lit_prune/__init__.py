"""Freeze, prune, fine-tune and unfreeze networks with PyTorch Lightning.

Public names are imported when they are first used, so that `lit-prune --version` does not wait for torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lit_prune.data import CIFAR10DataModule
    from lit_prune.model import LitResNet18

__version__ = "0.1.0"

_HOMES = {
    "CIFAR10DataModule": "lit_prune.data",
    "LitResNet18": "lit_prune.model",
}

__all__ = ["CIFAR10DataModule", "LitResNet18", "__version__"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
