"""Apply and remove masks on weights, in the form of `torch.nn.utils.prune`.

A masked layer has a parameter `weight_orig`, a buffer `weight_mask` of zeros and ones, their product `weight`, and a
`torch.nn.utils.prune.BasePruningMethod` among its forward pre-hooks. `torch.nn.utils.prune.is_pruned` is true for it,
`torch.nn.utils.prune.remove` works, and further methods of that module may be applied on top.

Two things differ from torch:

- `weight` is a property of the layer's class, computed whenever it is read; torch stores the product of the last
  forward pass. So `weight` is never stale, even if the layer is not called (attention reads `out_proj.weight`), its
  gradient always reaches `weight_orig`, and the layer can be copied and pickled.
- The state dict of a masked layer has the keys of an unmasked layer; pruned weights are zeros in it.
"""

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_prune.errors import expected
from lit_prune.functional.selection import WeightRef, stored_parameter


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask weights in place; masked weights become exactly zero.

    A new mask replaces an old one; masks of other pruning methods are first removed, which leaves zeros. Other layers
    that share the weight are masked too. Parameters keep their identity, order and memory format.

    Args:
        model: Module that contains the layers named in `masks`.
        masks: For each layer, by qualified name, a tensor of the shape of its `weight`, false or zero where the weight
            is pruned.

    Raises:
        InputError: If a name is not that of a layer with a weight, or if a mask has another shape than the weight.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    for name, mask in masks.items():
        module = named.get(name)
        parameter = None if module is None else stored_parameter(module)
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
                "use masks that were computed for this model",
            )
        for holder in model.modules():
            if stored_parameter(holder) is parameter:
                _mask(holder, mask)


def remove_masks(model: nn.Module, weights: Sequence[WeightRef] | None = None) -> list[str]:
    """Remove masks in place: pruned weights stay zero and can train again.

    This does what `torch.nn.utils.prune.remove` does, for masks of any method, and keeps the order of parameters.

    Args:
        model: Any module.
        weights: Weights to unmask. None unmasks every parameter of the model.

    Returns:
        Qualified names of the parameters that were masked, for example "conv1.weight".
    """
    chosen = None if weights is None else {id(ref.tensor) for ref in weights}
    removed = []
    for prefix, module in model.named_modules():
        for name in masked_parameters(module):
            if chosen is None or id(module.get_parameter(f"{name}_orig")) in chosen:
                _unmask(module, name)
                for key, hook in list(module._forward_pre_hooks.items()):
                    if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
                        del module._forward_pre_hooks[key]
                removed.append(f"{prefix}.{name}" if prefix else name)
    return removed


def masked_parameters(module: nn.Module) -> list[str]:
    """List the masked parameters of a module without its submodules, for example ["weight"]."""
    return [
        key.removesuffix("_orig")
        for key in module._parameters
        if key.endswith("_orig") and module._buffers.get(f"{key.removesuffix('_orig')}_mask") is not None
    ]


def current_mask(ref: WeightRef) -> Tensor | None:
    """Return the mask of a weight as bool, true where the weight is kept; None if it is not masked."""
    if ref.parameter not in masked_parameters(ref.module):
        return None
    return ref.module.get_buffer(f"{ref.parameter}_mask") != 0


class Masked(prune.BasePruningMethod):
    """Marker that `torch.nn.utils.prune` looks for in a masked layer; the layer's class computes the weight."""

    PRUNING_TYPE = "unstructured"
    _tensor_name = "weight"

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Do nothing before a forward pass."""

    def compute_mask(self, t: Tensor, default_mask: Tensor) -> Tensor:
        """Return the mask unchanged, as the base class requires."""
        return default_mask

    def remove(self, module: nn.Module) -> None:
        """Unmask the weight; called by `torch.nn.utils.prune.remove`."""
        _unmask(module, "weight")


def _mask(module: nn.Module, mask: Tensor) -> None:
    ours = any(type(hook) is Masked for hook in module._forward_pre_hooks.values())
    if not ours:
        if "weight" in masked_parameters(module):
            remove_masks(module, [WeightRef("", module, "weight")])
        parameter = module.get_parameter("weight")
        _rename_parameter(module, "weight", "weight_orig")
        # same dtype and memory format as the weight: their product is ten times faster than with mixed ones
        module.register_buffer("weight_mask", torch.empty_like(parameter, requires_grad=False))
        module.__class__ = _masked_class(type(module))  # type: ignore[arg-type]
        module.register_forward_pre_hook(Masked())
    with torch.no_grad():
        module.get_buffer("weight_mask").copy_(mask != 0)
    zero_pruned(module)


def zero_pruned(module: nn.Module) -> None:
    """Set masked values of a layer's parameters to exactly zero, in case an optimizer has changed them."""
    with torch.no_grad():
        for name in masked_parameters(module):
            mask = module.get_buffer(f"{name}_mask")
            # not multiplied by the mask, which would leave -0.0
            module.get_parameter(f"{name}_orig").masked_fill_(mask == 0, 0.0)


def _unmask(module: nn.Module, name: str) -> None:
    zero_pruned(module)
    if isinstance(module, _Masked) and name == "weight":
        module.__class__ = module._plain
    # where the methods of `torch.nn.utils.prune` store the product
    module.__dict__.pop(name, None)
    del module._buffers[f"{name}_mask"]
    _rename_parameter(module, f"{name}_orig", name)


def _rename_parameter(module: nn.Module, old: str, new: str) -> None:
    """Rename a parameter and keep the order of parameters, on which optimizer checkpoints depend."""
    items = [(new if key == old else key, value) for key, value in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(items)


class _Masked(nn.Module):
    """First base class of a masked layer; the second one is the layer's original class, `_plain`."""

    _plain: Any

    @property
    def weight(self) -> Tensor:
        product: Tensor = self.weight_orig * self.weight_mask  # type: ignore[operator]
        return product

    @weight.setter
    def weight(self, product: Tensor) -> None:
        """Ignore the product that methods of `torch.nn.utils.prune` store."""

    @weight.deleter
    def weight(self) -> None:
        """Restore the original class, when a method of `torch.nn.utils.prune` that was applied on top is removed."""
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
            if weight.shape == mask.shape:
                # the product must equal the loaded weight, so the mask also keeps all of its non-zero elements
                mask = mask.logical_or(weight.to(mask.device) != 0).to(mask.dtype)
            state_dict |= {f"{prefix}weight_orig": weight, f"{prefix}weight_mask": mask}
        missing: list[str] = []
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing, unexpected_keys, error_msgs)
        plain = {f"{prefix}weight_orig": f"{prefix}weight"}
        missing_keys += [plain.get(key, key) for key in missing if key != f"{prefix}weight_mask"]

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        """Pickle and copy the layer as its original class, because this class cannot be imported by name."""
        function, arguments, *state = super().__reduce_ex__(protocol)  # type: ignore[str-unpack]
        arguments = tuple(self._plain if item is type(self) else item for item in arguments)
        return _revive, (function, arguments), *state


def _revive(function: Callable[..., nn.Module], arguments: tuple[Any, ...]) -> nn.Module:
    module = function(*arguments)
    module.__class__ = _masked_class(type(module))  # type: ignore[arg-type]
    return module


@cache
def _masked_class(plain: Any) -> type[_Masked]:
    # same name as the original class, which `repr` and model summaries show
    names = {"_plain": plain, "__module__": plain.__module__, "__qualname__": plain.__qualname__}
    return type(plain.__name__, (_Masked, plain), names)
