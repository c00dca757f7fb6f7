"""Copy a network without masks, as modules of torch instead of lit-prune."""

from copy import deepcopy
from typing import Any

from torch import Tensor, nn

from lit_prune.functional.masking import remove_masks


def plain_copy(model: nn.Module) -> nn.Module:
    """Copy a model as ordinary torch modules that compute the same outputs, in evaluation mode.

    A module's class can say what replaces its instances in the copy, by one of two attributes. They are not inherited,
    because a subclass may compute something else:

    - `plain_module`, a method, for the class of the whole model: returns a module with the same submodules under the
      same names.
    - `plain_class`, for the class of any layer: a class that computes the same outputs from the layer's attributes.

    Args:
        model: Any module, masked or not, in any mode. It is not changed.

    Returns:
        A copy with zeros in its weights instead of masks. Modules whose class has neither attribute keep that class.
    """
    plain_module = vars(type(model)).get("plain_module")
    model = model if plain_module is None else plain_module(model)
    # `deepcopy` fails for tensors that are not leaves, such as the products that `torch.nn.utils.prune` stores
    stored = (value for module in model.modules() for value in vars(module).values())
    products: dict[int, Any] = {
        id(value): value.detach().clone() for value in stored if isinstance(value, Tensor) and not value.is_leaf
    }
    copied = deepcopy(model, products)
    remove_masks(copied)
    for module in copied.modules():
        module.__class__ = vars(type(module)).get("plain_class", type(module))
    return copied.eval()
