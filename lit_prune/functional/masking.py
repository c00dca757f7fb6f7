"""Masks on weights: torch's mechanism, made safe to keep for a whole training.

A masked layer is what `torch.nn.utils.prune` makes of it: the parameter is called `weight_orig`, a buffer
`weight_mask` of zeros and ones stands beside it, `weight` is their product, and a
`torch.nn.utils.prune.BasePruningMethod` among the forward pre-hooks says so. `torch.nn.utils.prune.is_pruned`
is true, `torch.nn.utils.prune.remove` works, and further methods of that module may be applied on top.

Two things differ. `weight` is computed whenever it is read, by a property of the layer's class, where torch
stores the product of the last forward. So it is never stale, also where somebody reads it without calling the
layer (attention reads `out_proj.weight`), it always carries a gradient to `weight_orig`, and nothing is left
behind that cannot be copied or pickled. And the state dict of a masked layer is that of a plain one, with
the zeros in it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_prune.errors import expected
from lit_prune.functional.selection import WeightRef

__all__ = ["apply_masks", "current_mask", "masked_parameters", "remove_masks"]


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Set the masks of weights, in place; the masked weights become exactly zero.

    A layer that is masked already gets the new mask in the place of the old one, so that memory does not grow
    however often this is called; masks of other methods are folded into the weight. Layers that share the
    weight are masked with it. Parameters keep their identity, order and memory format.

    Args:
        model: The module that the names refer to.
        masks: For each layer, by its qualified name, a tensor of the shape of its `weight`: false or zero where
            the weight is pruned.

    Raises:
        InputError: If a name is not that of a layer with a weight, or a mask has another shape than the weight.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    for name, mask in masks.items():
        module = named.get(name)
        parameter = None if module is None else stored_weight(module)
        if parameter is None:
            raise expected(
                "masks for layers of the model",
                f"one for `{name}`, which has no weight in {type(model).__name__}",
                "give the qualified names of `weight_layers`",
            )
        if mask.shape != parameter.shape:
            raise expected(
                f"a mask of shape {tuple(parameter.shape)} for layer `{name}`",
                str(tuple(mask.shape)),
                "use masks that were made for this model",
            )
        for holder in model.modules():
            if stored_weight(holder) is parameter:
                _mask(holder, mask)


def remove_masks(model: nn.Module, weights: Sequence[WeightRef] | None = None) -> list[str]:
    """Make masked weights plain again: the zeros stay, and train from now on.

    This is `torch.nn.utils.prune.remove` on everything that is masked, by whatever method, but the order of the
    parameters stays as it was before the masks.

    Args:
        model: Any module.
        weights: Only these. None takes every masked parameter of the model.

    Returns:
        Qualified names of the parameters that were masked, for example "backbone.conv1.weight".
    """
    chosen = None if weights is None else {id(ref.tensor) for ref in weights}
    removed = []
    for prefix, module in model.named_modules():
        for name in masked_parameters(module):
            if chosen is None or id(module.get_parameter(f"{name}_orig")) in chosen:
                _unmask(module, name)
                for key in [key for key, hook in module._forward_pre_hooks.items() if _is_on(hook, name)]:
                    del module._forward_pre_hooks[key]
                removed.append(f"{prefix}.{name}" if prefix else name)
    return removed


def masked_parameters(module: nn.Module) -> list[str]:
    """Name the parameters that the module itself holds and that are masked, for example ["weight"]."""
    return [
        key.removesuffix("_orig")
        for key in module._parameters
        if key.endswith("_orig") and module._buffers.get(f"{key.removesuffix('_orig')}_mask") is not None
    ]


def current_mask(ref: WeightRef) -> Tensor | None:
    """Return the mask that the weight has now, bool, true where it is kept; None if it is not masked."""
    if ref.parameter not in masked_parameters(ref.module):
        return None
    return ref.module.get_buffer(f"{ref.parameter}_mask") != 0


def stored_weight(module: nn.Module) -> nn.Parameter | None:
    """Return the parameter behind a layer's weight, be it masked or plain; None if there is none."""
    return module._parameters.get("weight_orig" if "weight" in masked_parameters(module) else "weight")


class Masked(prune.BasePruningMethod):
    """Marks a layer as pruned for `torch.nn.utils.prune`; the layer's class computes the weight."""

    PRUNING_TYPE = "unstructured"
    _tensor_name = "weight"

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Do nothing before a forward: the weight is computed when it is read."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Keep the mask as it is; asked for by the base class only."""
        return default_mask

    def remove(self, module: nn.Module) -> None:
        """Make the weight plain again; called by `torch.nn.utils.prune.remove`."""
        _unmask(module, "weight")


def _mask(module: nn.Module, mask: Tensor) -> None:
    ours = any(type(hook) is Masked for hook in module._forward_pre_hooks.values())
    if not ours:
        if "weight" in masked_parameters(module):
            remove_masks(module, [WeightRef("", module, "weight")])
        parameter = module.get_parameter("weight")
        _rename_parameter(module, "weight", "weight_orig")
        # the dtype and memory format of the weight: their product is ten times slower otherwise
        module.register_buffer("weight_mask", torch.empty_like(parameter, requires_grad=False))
        module.__class__ = _masked_class(type(module))  # type: ignore[arg-type]
        module.register_forward_pre_hook(Masked())
    with torch.no_grad():
        module.get_buffer("weight_mask").copy_(mask != 0)
    zero_pruned(module)


def zero_pruned(module: nn.Module) -> None:
    """Make the hidden values behind a layer's masks exactly zero, whatever an optimizer has done to them."""
    with torch.no_grad():
        for name in masked_parameters(module):
            mask = module.get_buffer(f"{name}_mask")
            # not a product: that would leave -0.0, which is not what a checkpoint restores
            module.get_parameter(f"{name}_orig").masked_fill_(mask == 0, 0.0)


def _unmask(module: nn.Module, name: str) -> None:
    zero_pruned(module)
    if isinstance(module, _Masked) and name == "weight":
        module.__class__ = module._plain
    # where torch's own methods keep the product
    module.__dict__.pop(name, None)
    del module._buffers[f"{name}_mask"]
    _rename_parameter(module, f"{name}_orig", name)


def _rename_parameter(module: nn.Module, old: str, new: str) -> None:
    """Rename in place in the order, which optimizers and their checkpoints go by."""
    items = [(new if key == old else key, value) for key, value in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(items)


def _is_on(hook: Callable[..., Any], name: str) -> bool:
    return isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name


class _Masked(nn.Module):
    """What the class of a masked layer adds to the class that it had before, `_plain`."""

    _plain: Any

    @property
    def weight(self) -> Tensor:
        product: Tensor = self.weight_orig * self.weight_mask  # type: ignore[operator]
        return product

    @weight.setter
    def weight(self, product: Tensor) -> None:
        """Ignore the product that the methods of `torch.nn.utils.prune` store: it is what a read computes."""

    @weight.deleter
    def weight(self) -> None:
        """Make way for the plain parameter; called by the `remove` of a method that was applied on top."""
        self.__class__ = self._plain

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        own: OrderedDict[str, Any] = OrderedDict()
        super()._save_to_state_dict(own, prefix, keep_vars)
        for key, value in own.items():
            if key == f"{prefix}weight_orig":
                destination[f"{prefix}weight"] = self.weight if keep_vars else self.weight.detach()
            elif key != f"{prefix}weight_mask":
                destination[key] = value

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weight = state_dict.pop(f"{prefix}weight", None)
        if weight is not None:
            mask = self.get_buffer("weight_mask")
            state_dict[f"{prefix}weight_orig"] = weight
            # the effective weights shall be those of the file, so the mask opens for what the file has kept
            fits = weight.shape == mask.shape
            state_dict[f"{prefix}weight_mask"] = (
                mask.logical_or(weight.to(mask.device) != 0).to(mask.dtype) if fits else mask
            )
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        plain = {f"{prefix}weight_orig": f"{prefix}weight"}
        missing_keys += [plain.get(key, key) for key in missing if key != f"{prefix}weight_mask"]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and copy by way of the plain class, since this one has no name to be found by."""
        function, arguments, *state = super().__reduce_ex__(protocol)  # type: ignore[str-unpack]
        arguments = tuple(self._plain if item is type(self) else item for item in arguments)
        return _revive, (function, arguments), *state


def _revive(function: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    module = function(*arguments)
    module.__class__ = _masked_class(type(module))  # type: ignore[arg-type]
    return module


@cache
def _masked_class(plain: Any) -> type[_Masked]:
    # under the old name: representations and model summaries show what the layer is
    names = {"_plain": plain, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
    return type(plain.__name__, (_Masked, plain), names)
