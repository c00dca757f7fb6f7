"""How much a forward pass computes, and how much of it with weights that are not zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lit_prune.errors import expected
from lit_prune.functional.masking import stored_weight

__all__ = ["LayerFlops", "flops", "input_shape"]

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *_TRANSPOSED)


@dataclass(frozen=True)
class LayerFlops:
    """What one layer computes for one input; a multiplication and the addition after it are 2 FLOPs.

    Attributes:
        nominal: FLOPs of the whole kernel or matrix, whatever its values are.
        nonzero: FLOPs of the weights that are not zero. Dense kernels compute the others too.

    Raises:
        InputError: If not 0 <= nonzero <= nominal.
    """

    nominal: int
    nonzero: int

    def __post_init__(self) -> None:
        if not 0 <= self.nonzero <= self.nominal:
            raise expected(
                "0 <= nonzero <= nominal FLOPs", f"{self.nonzero}, {self.nominal}", "the first are a part of the second"
            )

    def __add__(self, other: "LayerFlops") -> "LayerFlops":
        return LayerFlops(self.nominal + other.nominal, self.nonzero + other.nonzero)


def flops(model: nn.Module, input_size: int | Sequence[int]) -> dict[str, LayerFlops]:
    """Count the FLOPs of each convolution and linear layer for one input.

    One multiply-add counts as 2 FLOPs. Counted are the products of weights with their inputs in convolutions
    (transposed ones too) and `nn.Linear`, taps on padding included, as is usual; a layer that is called twice counts
    twice. Not counted are biases, norms, activations, pooling, sums of branches, and products that a model computes
    without calling such a layer, as `nn.MultiheadAttention` does. They are a small part of a ResNet.

    The model computes one batch of one input of zeros, in evaluation mode and without gradients, and is as it was
    afterwards: modes, buffers and hooks.

    Args:
        model: Any module whose forward takes one tensor. It may be masked.
        input_size: As for `input_shape`.

    Returns:
        FLOPs by the qualified name of the layer, in the order of registration; a weight that several layers share
        counts under the first name. A layer that was not called has none, 0.

    Raises:
        InputError: If the size cannot be used, or the model cannot compute an input of this size.

    Example:
        >>> flops(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), 32)["0"].nominal == 2 * 3 * 8 * 9 * 32 * 32
        True
    """
    shape = input_shape(model, input_size)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    counts, names = _layers(model)

    def count(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> None:
        counts[names[module]] += _computed(module, args[0] if args else kwargs["input"], output)

    modes = {module: module.training for module in model.modules()}
    handles = [module.register_forward_hook(count, with_kwargs=True) for module in names]
    try:
        for module in modes:  # `eval` may be overridden, to keep parts in training mode
            module.training = False
        with torch.no_grad():
            model(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise expected(
            f"`input_size` {input_size} to be one that {type(model).__name__} can compute",
            f"{type(error).__name__} ({' '.join(str(error).split())[:200].rstrip('.')})",
            "give the pixels of a side, or the shape of one input",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return counts


def input_shape(model: nn.Module, input_size: int | Sequence[int]) -> tuple[int, ...]:
    """Find the shape of one input, without the batch.

    Args:
        model: The module that takes the input.
        input_size: The pixels of a side of a square image, which has the channels that the first convolution of
            the model takes; or the whole shape of one input, such as (3, 32, 32).

    Raises:
        InputError: If the size is not made of whole numbers from 1 on, the model has no two-dimensional convolution
            to take the channels from, or its parameters have no values yet (lazy modules).
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise expected("a model whose weights have values", "a lazy one", "run one batch through the model first")
    sizes = [input_size] if isinstance(input_size, int) else [*input_size]
    if not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise expected(
            "`input_size` to be made of whole numbers from 1 on",
            input_size,
            "32 means images of 32x32 pixels; (3, 32, 32) is the same with the channels",
        )
    if not isinstance(input_size, int):
        return tuple(sizes)
    first = next((module for module in model.modules() if isinstance(module, _CONVOLUTIONS)), None)
    if not isinstance(first, nn.Conv2d | nn.ConvTranspose2d):
        raise expected(
            "`input_size` to be the shape of one input, for a model that does not begin with a convolution of images",
            input_size,
            "give all of its sizes but the batch, for example (784,)",
        )
    return (first.in_channels, input_size, input_size)


def _layers(model: nn.Module) -> tuple[dict[str, LayerFlops], dict[nn.Module, str]]:
    """Name the layers to count, and those with the weight of an earlier one by its name."""
    names: dict[nn.Module, str] = {}
    owners: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
            weight = stored_weight(module)
            names[module] = owners.setdefault(id(module if weight is None else weight), name)
    return {name: LayerFlops(0, 0) for name in names.values()}, names


def _computed(module: Any, input: Tensor, output: Tensor) -> LayerFlops:
    weight: Tensor = module.weight
    # every weight meets each position once: of the input if it is spread over outputs, else of the output
    if isinstance(module, _TRANSPOSED):
        positions = input.numel() // module.in_channels
    else:
        positions = output.numel() // (module.out_features if isinstance(module, nn.Linear) else module.out_channels)
    return LayerFlops(2 * positions * weight.numel(), 2 * positions * int(weight.count_nonzero()))
