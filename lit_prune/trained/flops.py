"""Count the FLOPs of a forward pass: of all weights, and of the non-zero weights alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.utils.flop_counter import FlopCounterMode

from lit_prune.errors import InputError, UnfinishedError, expected, one_line
from lit_prune.functional.plain import plain_copy
from lit_prune.functional.selection import CONVOLUTIONS, weight_names


@dataclass(frozen=True)
class LayerFlops:
    """FLOPs of one layer for one input; a multiply-add is 2 FLOPs.

    Attributes:
        nominal: FLOPs of all weights.
        nonzero: FLOPs of the non-zero weights alone. Ordinary dense layers compute all of `nominal`, products with
            zeros included.

    Raises:
        InputError: If not 0 <= nonzero <= nominal.
    """

    nominal: int
    nonzero: int

    def __post_init__(self) -> None:
        if not 0 <= self.nonzero <= self.nominal:
            hint = "`nonzero` counts a part of `nominal`"
            raise expected("0 <= nonzero <= nominal FLOPs", f"{self.nonzero}, {self.nominal}", hint)

    def __add__(self, other: "LayerFlops") -> "LayerFlops":
        return LayerFlops(self.nominal + other.nominal, self.nonzero + other.nonzero)


def count_flops(model: nn.Module, input_size: int | Sequence[int], example: Any = None) -> dict[str, LayerFlops]:
    """Count, for one input, the FLOPs of each layer that has a single weight, called `weight`.

    `torch.utils.flop_counter.FlopCounterMode` counts a forward pass of a `plain_copy` in evaluation mode: 2 FLOPs for
    each multiply-add of a weight and its input, multiplications by padding included. A layer that is called twice
    counts twice. Biases, norms, activations, pooling and residual sums do not count, nor do LSTMs, nor products that
    are computed without calling such a layer, for example in `nn.MultiheadAttention`.

    Args:
        model: Any module, masked or not. It is not changed.
        input_size: Height and width of square images, or the shape of one input; see `input_shape`. The forward pass
            gets zeros of this shape.
        example: Input of the forward pass, like the `example_input_array` of a LightningModule: a tensor, a tuple of
            several inputs, or a dictionary of inputs by name. If it is given, `input_size` is ignored.

    Returns:
        FLOPs by the qualified name of the layer, in the order of registration. A weight that several layers share
        counts under the name of the first of them. A layer that was not called has 0, but
        the `out_proj` of a `torch.nn.MultiheadAttention`, which is used without being called, is left out.

    Raises:
        InputError: If `input_size` is invalid, or the forward pass fails for it.

    Examples:
        >>> count_flops(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), 32)["0"].nominal == 2 * 3 * 8 * 9 * 32 * 32
        True
    """
    if example is None:
        parameter = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
        shape = input_shape(model, input_size)
        example = torch.zeros(1, *shape, dtype=parameter.dtype, device=parameter.device)
    counter = FlopCounterMode(display=False)
    counts: dict[str, LayerFlops] = {}
    running: list[list[int]] = []  # for each layer being called: the total before the call, the FLOPs of inner layers

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
            module.training = False  # `eval` may be overridden to keep parts in training mode
            if weight_names(module) == ["weight"]:
                weight = module._parameters.get("weight")
                owner = owners.setdefault(id(module if weight is None else weight), name)
                counts[owner] = LayerFlops(0, 0)
                module.register_forward_pre_hook(enter)
                module.register_forward_hook(partial(leave, owner))
        with torch.no_grad(), counter:
            if isinstance(example, Mapping):
                plain(**example)
            else:
                plain(*(example if isinstance(example, tuple) else (example,)))
    except (InputError, UnfinishedError, MemoryError):
        raise
    except Exception as error:  # a custom `forward` may raise anything
        raise expected(
            f"`input_size` {input_size} to be one that {type(model).__name__} accepts",
            f"{type(error).__name__} ({one_line(error)})",
            "give the height and width of images in pixels, or the shape of one input",
        ) from error
    attentions = {name for name, module in plain.named_modules() if isinstance(module, nn.MultiheadAttention)}
    return {name: count for name, count in counts.items() if name.removesuffix(".out_proj") not in attentions}


def input_shape(model: nn.Module, input_size: int | Sequence[int]) -> tuple[int, ...]:
    """Return the shape of one input, without the batch dimension.

    Args:
        model: Module that takes the input.
        input_size: Height and width of square images, with as many channels as the first convolution of the model
            takes; or the whole shape of one input, such as (3, 32, 32).

    Raises:
        InputError: If a size is not a positive integer, if only height and width are given and the first
            convolution is missing or not two-dimensional, or if parameters have no values yet (lazy modules).
    """
    if any(is_lazy(parameter) for parameter in model.parameters()):
        raise expected("a model whose weights have values", "a lazy one", "run one batch through the model first")
    sizes = [input_size] if isinstance(input_size, int) else [*input_size]
    if not sizes or not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in sizes):
        raise expected(
            "`input_size` to be one or several positive integers",
            input_size,
            "32 means images of 32x32 pixels; (3, 32, 32) also gives the channels",
        )
    if not isinstance(input_size, int):
        return tuple(sizes)
    first = next((module for module in model.modules() if isinstance(module, CONVOLUTIONS)), None)
    if not isinstance(first, nn.Conv2d | nn.ConvTranspose2d):
        raise expected(
            "`input_size` to be the whole shape of one input, as the first layer is not a convolution of images",
            input_size,
            "give all dimensions but the batch, for example [784], or set `example_input_array` in the class",
        )
    return (first.in_channels, input_size, input_size)
