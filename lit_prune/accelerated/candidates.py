"""Find the layers of a network that can be replaced, and make what could replace each."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from lit_prune.accelerated.convolutions import ConvolutionMatrix, SparseConv2d
from lit_prune.accelerated.linear import SparseLinear
from lit_prune.accelerated.semi_structured import SemiStructuredLinear, is_semi_structured
from lit_prune.functional.sparsity import count_zeros

# below this sparsity, values with their indices take more memory than dense weights
_LEAST_SPARSITY = 0.5
# a convolution of feature maps of at most this many pixels may become one matrix, which repeats each weight few times
_MOST_PIXELS = 4
_LAYERS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


@dataclass
class Seen:
    """What a forward pass showed of a layer.

    Attributes:
        shapes: Shapes of its inputs, one of each call.
        same: Whether an attention always got one tensor as query, key and value.
        outside: Whether its weight was used while the layer was not being called.
    """

    shapes: list[torch.Size] = field(default_factory=list)
    same: bool = True
    outside: bool = False


def watch(network: nn.Module, run: Callable[[nn.Module], Any]) -> dict[str, Seen]:
    """Run a network once, and return what was seen of its linear layers, convolutions and attentions, by name."""
    seen = {name: Seen() for name, layer in network.named_modules() if isinstance(layer, _LAYERS)}
    owners = {
        id(parameter): name for name in seen for parameter in network.get_submodule(name).parameters(recurse=False)
    }
    running: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        def record(layer: nn.Module, args: Any, kwargs: Any) -> None:
            running.append(name)
            inputs = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
            seen[name].shapes += [inputs[0].shape] if inputs else []
            seen[name].same &= len(inputs) > 2 and inputs[0] is inputs[1] and inputs[1] is inputs[2]

        return record

    def leave(layer: nn.Module, args: Any, output: Any) -> None:
        running.pop()

    class Uses(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = func(*args, **(kwargs or {}))
            if isinstance(result, Tensor):  # reading the shape, dtype or device of a weight is not a use
                for value in tree_leaves((args, kwargs)):
                    name = owners.get(id(value)) if isinstance(value, Tensor) else None
                    if name is not None and name not in running:
                        seen[name].outside = True
            return result

    hooks = []
    for name in seen:
        layer = network.get_submodule(name)
        hooks += [layer.register_forward_pre_hook(enter(name), with_kwargs=True), layer.register_forward_hook(leave)]
    try:
        with Uses():
            run(network)
    finally:
        for hook in hooks:
            hook.remove()
    return seen


def why_dense(network: nn.Module, seen: Mapping[str, Seen]) -> dict[str, str]:
    """Return for each layer that was watched why it has to stay as it is; "" if it can be replaced."""
    names = Counter(id(module) for _, module in network.named_modules(remove_duplicate=False))
    owners = Counter(id(p) for module in network.modules() for p in module.parameters(recurse=False))

    def explain(name: str) -> str:
        layer: Any = network.get_submodule(name)
        weights = [weight for weight in layer.parameters() if weight.dim() > 1]
        if type(layer) not in _LAYERS:
            return f"its class is {type(layer).__module__}.{type(layer).__qualname__}"
        if not weights or any(getattr(module, hooks) for module in layer.modules() for hooks in _HOOKS):
            return "it has hooks, or a weight that is computed"
        if names[id(layer)] > 1 or any(owners[id(weight)] > 1 for weight in weights):
            return "it shares its weight with another layer"
        if seen[name].outside:
            return "its weight is also used outside the layer"
        if not seen[name].shapes:
            return "it was not called"
        if isinstance(layer, nn.MultiheadAttention) and (layer.bias_k is not None or layer.add_zero_attn):
            return "it uses `add_bias_kv` or `add_zero_attn`"
        return ""

    return {name: explain(name) for name in seen}


def make_alternatives(layer: Any, seen: Seen) -> dict[str, nn.Module]:
    """Make what could replace a layer at the inputs that were seen: "cropped", "sparse" or "2:4"."""
    weight = layer.weight.detach()
    if weight.is_cuda:
        fits = isinstance(layer, nn.Linear) and is_semi_structured(weight)
        return {"2:4": SemiStructuredLinear(weight, layer.bias)} if fits else {}
    if weight.device.type != "cpu" or weight.dtype != torch.float32:
        return {}
    sparse = sparsity_of(layer) >= _LEAST_SPARSITY
    if isinstance(layer, nn.Linear):
        return {"sparse": SparseLinear.of(weight, layer.bias)} if sparse else {}
    if layer.groups > 1:
        return {}
    sizes = {tuple(shape[-2:]) for shape in seen.shapes}
    height, width = next(iter(sizes))
    if len(sizes) == 1 and height * width <= _MOST_PIXELS:
        kinds = ["cropped", "sparse"] if sparse else ["cropped"]
        return {kind: ConvolutionMatrix.of(layer, (height, width), sparse=kind == "sparse") for kind in kinds}
    ordinary = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    batched = all(len(shape) == 4 for shape in seen.shapes)
    return {"sparse": SparseConv2d.of(layer)} if sparse and ordinary and batched else {}


def sparsity_of(layer: nn.Module) -> float:
    """Return the fraction of the weights of a layer, without biases, that are zero."""
    weights = [weight.detach() for weight in layer.parameters() if weight.dim() > 1]
    return sum(map(count_zeros, weights)) / max(1, sum(weight.numel() for weight in weights))
