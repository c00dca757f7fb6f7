"""A network as torch alone knows it: nothing masked, and no class of ours."""

from collections import OrderedDict
from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from lit_prune.functional.masking import remove_masks

__all__ = ["plain_copy"]

_OURS = __name__.partition(".")[0]


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a model as plain torch modules that compute the same.

    Args:
        model: Any module, masked or not, in any mode; it is left as it is. Layers of this package become the torch
            layers that they stand for, and a `LitResNet18` the `nn.Sequential` of its `backbone` and `head`, so that
            the names in its state dict stay. Classes of others are kept, for nobody else has their `forward`.

    Returns:
        A copy in evaluation mode, its masks made permanent zeros.
    """
    parts: dict[str, Any] = {name: getattr(model, name, None) for name in ("backbone", "head")}
    if _is_ours(type(model)) and all(isinstance(part, nn.Module) for part in parts.values()):
        model = nn.Sequential(OrderedDict(parts))  # it holds the parts themselves until they are copied below
    copied = deepcopy(model, _products(model))
    remove_masks(copied)
    for module in copied.modules():
        module.__class__ = next(kind for kind in type(module).__mro__ if not _is_ours(kind))
    return copied.eval()


def _is_ours(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == _OURS


def _products(model: nn.Module) -> dict[int, Any]:
    """What `deepcopy` shall take for tensors that it refuses to copy: the products that torch's `prune` keeps."""
    kept = (value for module in model.modules() for value in vars(module).values())
    return {id(value): value.detach().clone() for value in kept if isinstance(value, Tensor) and not value.is_leaf}
