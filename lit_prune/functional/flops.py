"""How much a forward pass computes, and how much of it with weights that are not zero."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from lit_prune.errors import expected, shorten
from lit_prune.functional.masking import stored_weight
from lit_prune.functional.plain import plain_copy

__all__ = ["LayerFlops", "count_flops", "input_shape"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


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


def count_flops(model: nn.Module, input_size: int | Sequence[int]) -> dict[str, LayerFlops]:
    """Count the FLOPs of each convolution and linear layer for one input.

    `torch.utils.flop_counter.FlopCounterMode` counts a forward pass of a `plain_copy` in evaluation mode: 2 FLOPs for
    each multiply-add of a weight and its input, multiplications by padding included. A layer that is called twice
    counts twice. Biases, norms, activations, pooling and residual sums do not count, nor do products that a model
    computes without calling such a layer, as `nn.MultiheadAttention` does.

    Args:
        model: Any module whose forward takes one tensor, masked or not. It is not changed.
        input_size: As for `input_shape`.

    Returns:
        FLOPs by the qualified name of the layer, in the order of registration. A weight that several layers share
        counts under the first name. A layer that was not called has 0.

    Raises:
        InputError: If the size cannot be used, or the model cannot compute an input of this size.

    Example:
        >>> count_flops(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), 32)["0"].nominal == 2 * 3 * 8 * 9 * 32 * 32
        True
    """
    shape = input_shape(model, input_size)
    parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    counter = FlopCounterMode(display=False)
    counts: dict[str, LayerFlops] = {}
    running: list[list[int]] = []  # for each layer that is being called: the total before it, and FLOPs of inner layers

    def enter(module: nn.Module, args: Any) -> None:
        running.append([counter.get_total_flops(), 0])

    def leave(name: str, module: nn.Module, args: Any, output: Any) -> None:
        before, inner = running.pop()
        spent = counter.get_total_flops() - before
        if running:
            running[-1][1] += spent
        weight: Any = module.weight
        nominal = spent - inner
        counts[name] += LayerFlops(nominal, nominal * int(weight.count_nonzero()) // max(1, weight.numel()))

    try:
        plain = plain_copy(model)
        owners: dict[int, str] = {}
        for name, module in plain.named_modules():
            module.training = False  # `eval` may be overridden, to keep parts in training mode
            if isinstance(module, (*_CONVOLUTIONS, nn.Linear)):
                weight = stored_weight(module)
                owner = owners.setdefault(id(module if weight is None else weight), name)
                counts[owner] = LayerFlops(0, 0)
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(partial(leave, owner))
        with torch.no_grad(), counter:
            plain(torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device))
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise expected(
            f"`input_size` {input_size} to be one that {type(model).__name__} can compute",
            f"{type(error).__name__} ({shorten(' '.join(str(error).split()), 200).rstrip('.')})",
            "give the pixels of a side, or the shape of one input",
        ) from error
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
