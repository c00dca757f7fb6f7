"""Mask parameters: pruned weights are exactly zero and stay zero.

A masked parameter remains the same object under the same name, and the class of its layer does not change. Its mask is
stored in a `Mask` among the forward pre-hooks of its module, where `torch.nn.utils.prune.is_pruned` and
`torch.nn.utils.prune.remove` find it. The hook itself does nothing, so masks do not slow down a forward pass, and the
state dict has the keys of an unmasked model.

Masks are applied at three moments: before an optimizer steps (`mask_gradients`), after it has stepped (`mask_weights`),
and after anything else has written to weights (`mask_weights`). `hold_masks` registers hooks of an optimizer for the
first two.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lit_prune.errors import expected
from lit_prune.functional.selection import WeightRef, averaged_modules, find_weight, torch_mask
from lit_prune.functional.sharding import like, local, part_like, reshard
from lit_prune.functional.step_hooks import before_step, hookable

_INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def apply_masks(model: nn.Module, masks: Mapping[str, Tensor]) -> None:
    """Mask weights in place; masked weights become exactly zero.

    A new mask replaces the old one, even if that is one of `torch.nn.utils.prune`. Other modules that share the
    parameter are masked too.

    Args:
        model: Module that contains the weights named in `masks`.
        masks: For each weight, by the name that `weight_layers` gives it, a tensor of the weight's shape, false or zero
            where the weight is pruned. For a weight that is split between processes (DTensor), the mask may be split,
            too, or be whole and the same in every process.

    Raises:
        InputError: If the model has no weight of such a name, or if a mask has another shape than the weight.
    """
    reshard(model)
    for name, mask in masks.items():
        ref = find_weight(model, name)
        if ref is None:
            raise expected(
                "masks for layers of the model",
                f"one for `{name}`, which has no weight in {type(model).__name__}",
                "give the qualified names of `weight_layers`",
            )
        parameter = ref.tensor
        if mask.shape != parameter.shape:
            raise expected(
                f"a mask of shape {tuple(parameter.shape)} for layer `{name}`",
                str(tuple(mask.shape)),
                "use masks that were computed for this model",
            )
        _restore_parameter(ref.module, ref.parameter)
        for module in model.modules():
            for key, other in module.named_parameters(recurse=False, remove_duplicate=False):
                if other is parameter:
                    _mask(module, key, mask)


def remove_masks(model: nn.Module, weights: Sequence[WeightRef] | None = None) -> list[str]:
    """Remove masks in place: pruned weights start at zero and can train again.

    This does what `torch.nn.utils.prune.remove` does, for masks of lit-prune and of torch, and keeps the order of
    parameters.

    Args:
        model: Any module.
        weights: Weights to unmask. None unmasks every parameter of the model.

    Returns:
        Qualified names of the parameters whose masks were removed, for example "conv1.weight".
    """
    reshard(model)
    chosen = None if weights is None else {id(ref.tensor) for ref in weights}
    removed = []
    for prefix, module in model.named_modules():
        for name in masked_parameters(module):
            if chosen is None or id(WeightRef(prefix, module, name).tensor) in chosen:
                mask_weights(module)
                _restore_parameter(module, name)
                _remove_hook(module, name)
                removed.append(f"{prefix}.{name}" if prefix else name)
    return removed


def adopt_masks(model: nn.Module) -> None:
    """Replace the masks of `torch.nn.utils.prune` on a model by equal masks of lit-prune, in place."""
    for module in model.modules():
        for key, _ in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            name = key.removesuffix("_orig")
            if (mask := torch_mask(module, name)) is not None:
                _restore_parameter(module, name)
                apply_masks(module, {name: mask})


def copy_masks(model: nn.Module, target: nn.Module) -> None:
    """Replace the masks of a copy of a model, such as an average of its weights, by the masks of the model.

    Args:
        model: Model with the masks. An `AveragedModel` inside it is ignored.
        target: Module with the same parameters as the model, or an `AveragedModel` of such a module.

    Raises:
        InputError: If a masked weight of the model is missing in the copy, or has another shape there.
    """
    target = target.module if isinstance(target, AveragedModel) else target
    adopt_masks(target)
    for module in target.modules():
        for name in masked_parameters(module):
            _remove_hook(module, name)  # unlike `remove_masks`, this does not zero weights, which may be loaded ones
    averages = averaged_modules(model)
    for prefix, module in model.named_modules():
        for name in masked_parameters(module) if module not in averages else ():
            kept = current_mask(WeightRef(prefix, module, name))
            if kept is not None:
                apply_masks(target, {f"{prefix}.{name}".removeprefix("."): kept})


def masked_parameters(module: nn.Module) -> list[str]:
    """List the masked parameters of a module without its submodules, for example ["weight"]."""
    own = module.named_parameters(recurse=False, remove_duplicate=False)
    torchs = [key.removesuffix("_orig") for key, _ in own if key.endswith("_orig")]
    return [*_masks_in(module), *(name for name in torchs if torch_mask(module, name) is not None)]


def current_mask(ref: WeightRef) -> Tensor | None:
    """Return the mask of a weight as a bool tensor, true where the weight is kept; None if it is not masked."""
    if (ours := _masks_in(ref.module).get(ref.parameter)) is not None:
        return like(ours.fit(ref.tensor).bits != 0, ref.tensor)
    mask = torch_mask(ref.module, ref.parameter)
    return None if mask is None else mask != 0


def hold_masks(model: nn.Module, optimizer: Optimizer) -> "HeldMasks":
    """Keep masked weights at zero in a training loop without the callbacks of lit-prune, whatever the optimizer does.

    From now on, each step of the optimizer first sets the gradients of masked weights to zero and afterwards the
    weights themselves. Masks that are applied later are held too; masks that have been removed are not. In a loop that
    clips gradients, call `mask_gradients(model)` before clipping, so that the gradients of masked weights do not count.

    Args:
        model: Model with the masks.
        optimizer: Optimizer of the model's parameters.

    Returns:
        A handle; its method `remove` ends the effect.

    Examples:
        >>> from lit_prune.functional import apply_masks, hold_masks
        >>> layer = nn.Linear(2, 1)
        >>> apply_masks(layer, {"": torch.tensor([[True, False]])})
        >>> optimizer = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9)
        >>> handle = hold_masks(layer, optimizer)
        >>> layer(torch.ones(1, 2)).sum().backward()
        >>> optimizer.step()
        >>> layer.weight[0, 1].item()
        0.0
    """
    return HeldMasks(model, optimizer)


class HeldMasks:
    """Handle that `hold_masks` returns."""

    def __init__(self, model: nn.Module, optimizer: Optimizer) -> None:
        mask_weights(model)
        self._handles = [
            before_step(optimizer, lambda: mask_gradients(model, optimizer), lambda: mask_weights(model, optimizer)),
            hookable(optimizer).register_step_post_hook(lambda *_: mask_weights(model, optimizer)),
        ]

    def remove(self) -> None:
        """Stop holding the masks; they stay on the model."""
        for handle in self._handles:
            handle.remove()


def mask_gradients(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Set the gradients of all masked weights to zero, or only of those that an optimizer updates."""
    clear((parameter.grad, mask) for parameter, mask in masks_of(model, optimizer) if parameter.grad is not None)


def mask_weights(model: nn.Module, optimizer: Optimizer | None = None) -> None:
    """Set all masked weights to exactly zero, or only those that an optimizer updates."""
    clear(masks_of(model, optimizer))


def clear(pairs: Iterable[tuple[Tensor, "Mask"]]) -> None:
    """Set the masked elements of tensors to zero, in place; each is a parameter, its gradient, or its optimizer state.

    On a GPU, one kernel clears many tensors at once.
    """
    values, kept = [], []
    for tensor, mask in pairs:
        bits, part = mask.fit(tensor).bits, local(tensor)
        if part.is_sparse:  # the gradient of an embedding with `sparse=True`
            bits, part = bits[tuple(part._indices())], part._values()
        values.append(part.view(bits.dtype))
        kept.append(bits)
    if values:
        torch._foreach_mul_(values, kept)


def masks_of(model: nn.Module, optimizer: Optimizer | None = None) -> Iterator[tuple[nn.Parameter, "Mask"]]:
    """Yield each masked parameter once, with its mask: all, or only those that an optimizer updates."""
    reshard(model)
    left = None
    if optimizer is not None:
        left = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    seen = set[int]()
    for module in _modules_with_hooks(model):
        for name, mask in _masks_in(module).items():
            parameter = module._parameters.get(name)  # None if quantization has replaced the layer and kept its hooks
            if parameter is None and isinstance(getattr(module, name, None), Tensor):
                raise expected(
                    f"the masked `{name}` of {type(module).__name__} to stay a parameter",
                    "one that is computed from other parameters (parametrize, weight norm or spectral norm)",
                    "remove the parametrisation, or call `remove_masks` before adding it",
                )
            if parameter is not None and id(parameter) not in seen and (left is None or id(parameter) in left):
                seen.add(id(parameter))
                yield parameter, mask


def _modules_with_hooks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield the modules of a model, in order, that have forward pre-hooks; `modules` would be slower."""
    left, seen = [model], set[nn.Module]()
    while left:
        module = left.pop()
        if module not in seen:
            seen.add(module)
            left += [child for child in reversed(module._modules.values()) if child is not None]
            if module._forward_pre_hooks:
                yield module


class Mask(prune.PruningContainer):
    """The mask of one parameter, a forward pre-hook of the parameter's module that does nothing when called.

    This is a `PruningContainer` because `torch.nn.utils.prune` calls `add_pruning_method` of a container to prune its
    parameter further. The call is refused, since torch would replace the parameter by a product.

    Attributes:
        bits: Integers of the parameter's shape and layout, each with as many bytes as an element of the parameter: 1
            where the weight is kept, 0 where it is pruned. Multiplied with the bits of floats, read as integers, they
            keep or zero every float exactly, NaN included. For a parameter that is split between processes, only the
            part of this process.
    """

    def __init__(self, module: nn.Module, name: str, kept: Tensor) -> None:
        self._pruning_methods = ()
        self._tensor_name = name
        self._module = module
        self.set(kept)

    def set(self, kept: Tensor) -> None:
        """Replace the mask by a bool tensor, true where the weight is kept."""
        parameter = self._module.get_parameter(self._tensor_name)
        weight = local(parameter)
        self.bits = torch.empty_like(weight, dtype=_INTEGERS[weight.element_size()], requires_grad=False)
        self.bits.copy_(part_like(kept, parameter))

    def fit(self, tensor: Tensor) -> "Mask":
        """Adapt the mask to a parameter that was moved, converted or split between processes after masking."""
        if self.bits.shape != local(tensor).shape and self.bits.shape == tensor.shape:
            self.bits = part_like(self.bits, tensor)
        if tensor.device != self.bits.device or tensor.element_size() != self.bits.element_size():
            self.bits = self.bits.to(tensor.device, _INTEGERS[tensor.element_size()])
        return self

    def __call__(self, module: nn.Module, inputs: Any) -> None:
        """Do nothing before a forward pass."""

    def remove(self, module: nn.Module) -> None:
        """Zero the masked weights one last time; called by `torch.nn.utils.prune.remove`."""
        clear([(module.get_parameter(self._tensor_name), self)])

    def add_pruning_method(self, method: Any) -> None:
        """Refuse another pruning method of torch for the same parameter."""
        self._module.register_forward_pre_hook(self)  # torch has just removed this hook
        raise expected(
            f"no other pruning method for `{self._tensor_name}`, which lit-prune has masked",
            type(method).__name__,
            f'call `torch.nn.utils.prune.remove(module, "{self._tensor_name}")` first',
        )


def _masks_in(module: nn.Module) -> dict[str, Mask]:
    hooks = module._forward_pre_hooks.values()
    return {hook._tensor_name: hook for hook in hooks if isinstance(hook, Mask)}


def _mask(module: nn.Module, name: str, kept: Tensor) -> None:
    mask = _masks_in(module).get(name)
    if mask is None:
        module.register_forward_pre_hook(mask := Mask(module, name, kept != 0))
    else:
        mask.set(kept != 0)
    clear([(module.get_parameter(name), mask)])


def _restore_parameter(module: nn.Module, name: str) -> None:
    """Undo the masking of a parameter by `torch.nn.utils.prune`, if there is any; pruned values stay zero."""
    mask = torch_mask(module, name)
    if mask is None:
        return
    original = module.get_parameter(f"{name}_orig")
    with torch.no_grad():
        original.masked_fill_(mask == 0, 0.0)
    module.__dict__.pop(name, None)  # where torch stores the product
    del module._buffers[f"{name}_mask"]
    _remove_hook(module, name)
    # rename without moving: optimizer state in checkpoints depends on the order of parameters
    items = [(name if key == f"{name}_orig" else key, value) for key, value in module._parameters.items()]
    module._parameters.clear()
    module._parameters.update(items)


def _remove_hook(module: nn.Module, name: str) -> None:
    for key, hook in list(module._forward_pre_hooks.items()):
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
            del module._forward_pre_hooks[key]
