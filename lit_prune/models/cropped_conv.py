"""Convolutions that skip dead taps: kernel positions that only ever see padding.

For images of 32x32 pixels, the last stages of a ResNet-18 work on feature maps of 2x2 pixels and of one pixel, where
most taps of a 3x3 kernel multiply padding. Skipping these multiplications changes neither outputs nor gradients, and
saves most of the time of these layers.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.functional.live_taps import count_outputs, find_live_taps

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Span:
    """The parts of the kernel and of the input that a convolution uses, along one dimension.

    Attributes:
        taps: Kernel positions that are needed, from `find_live_taps`.
        padding: Zeros to add on each side of the input if only these taps are used.
        pixels: Number of input pixels up to the last one that any output reads.
        windows: For each output, the taps that read these pixels. Empty unless every output reads all these pixels.
    """

    taps: slice
    padding: int
    pixels: int
    windows: tuple[slice, ...]


def find_span(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Find the parts of the kernel and of the input that a convolution uses; arguments as in `find_live_taps`."""
    taps = find_live_taps((size,), kernel, stride, padding, dilation)
    outputs = count_outputs(size, kernel, stride, padding, dilation)
    pixels = min(size, (outputs - 1) * stride + (kernel - 1) * dilation - padding + 1)
    starts = [padding - output * stride for output in range(outputs)]
    whole = pixels > 0 and dilation == 1 and padding + pixels <= kernel and all(start >= 0 for start in starts)
    windows = tuple(slice(start, start + pixels) for start in starts) if whole else ()
    return Span(taps, padding - taps.start * dilation, pixels, windows)


_cached_span = lru_cache(maxsize=1024)(find_span)


def _windows(weight: Tensor, *windows: Window) -> Tensor:
    """Stack parts of a kernel (outputs, inputs, rows, columns) as (windows, outputs, rows, columns, inputs)."""
    if torch.compiler.is_compiling():  # compilers optimize slices better than a custom backward pass
        return _stack(weight, windows)
    stacked: Tensor = _Windows.apply(weight, windows)
    return stacked


def _stack(weight: Tensor, windows: tuple[Window, ...]) -> Tensor:
    return torch.stack([weight[:, :, rows, columns].permute(0, 2, 3, 1) for rows, columns in windows])


class _Windows(torch.autograd.Function):
    """`_stack` with a gradient in the memory layout of the weight.

    The gradient of ordinary slices is contiguous, and autograd would have to copy it for a channels_last weight.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, windows: tuple[Window, ...]) -> Tensor:
        return _stack(weight, windows)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, tuple[Window, ...]], output: Tensor) -> None:
        weight, ctx.windows = inputs
        ctx.shape, ctx.strides = weight.shape, weight.stride()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        whole = gradient.new_empty_strided(ctx.shape, ctx.strides).zero_()
        for (rows, columns), part in zip(ctx.windows, gradient.permute(0, 1, 4, 2, 3), strict=True):
            whole[:, :, rows, columns] += part
        return whole, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None) -> Tensor:
        return _stack(tangent, ctx.windows)


class CroppedConv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` that skips dead taps: kernel positions that, at the input's size, only see padding.

    Parameters, state dict, outputs and gradients are those of `torch.nn.Conv2d` at any input size; dead taps get a
    gradient of exactly zero. If every output reads every pixel, as on the 2x2 and 1x1 feature maps of a ResNet-18 for
    32x32 images, the convolution is computed as one matrix product. Nothing is skipped if `padding_mode` is not
    "zeros", if `padding` is a string such as "same", or if the input size is unknown (tracing, export).
    """

    plain_class = nn.Conv2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self._span(0, input.shape[-2]), self._span(1, input.shape[-1])
        padding: Any = self.padding
        if rows is not None and columns is not None:
            entries = self._entries(rows, columns)
            # if the matrix repeats taps for too many outputs, the ordinary convolution is faster
            fast = self.groups == 1 and 0 < entries <= 2 * self.kernel_size[0] * self.kernel_size[1]
            if fast and input.dim() == 4:
                matrices = _windows(weight, *product(rows.windows, columns.windows))
                return self._multiply(input, matrices, bias, rows, columns)
            if (rows.taps.stop - rows.taps.start, columns.taps.stop - columns.taps.start) != self.kernel_size:
                (weight,) = _windows(weight, (rows.taps, columns.taps)).permute(0, 1, 4, 2, 3)
                padding = (rows.padding, columns.padding)
        if weight.shape[2:] == (1, 1) and padding == (0, 0):
            # Slicing the input gives the same result as a stride, just as fast, and avoids a bug: without AVX-512,
            # oneDNN 3.12 corrupts memory in the backward pass of a 1x1 convolution with a stride above 1, in the
            # channels_last layout, with fewer than 7 input channels
            pixels = input[..., :: self.stride[0], :: self.stride[1]]
            return F.conv2d(pixels, weight, bias, groups=self.groups)
        if padding is not self.padding:
            return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
        ordinary: Tensor = super()._conv_forward(input, weight, bias)
        return ordinary

    def _entries(self, rows: Span, columns: Span) -> int:
        """Count the taps in the matrix that computes the outputs, with repetitions; 0 if no matrix can compute them."""
        return len(rows.windows) * len(columns.windows) * rows.pixels * columns.pixels

    def _multiply(self, input: Tensor, matrices: Tensor, bias: Tensor | None, rows: Span, columns: Span) -> Tensor:
        pixels = input[:, :, : rows.pixels, : columns.pixels].permute(0, 2, 3, 1)
        biases = None if bias is None else bias.repeat(len(matrices))
        output = F.linear(pixels.flatten(1), matrices.flatten(2).flatten(0, 1), biases)
        shape = (len(input), len(rows.windows), len(columns.windows), self.out_channels)
        return output.view(shape).permute(0, 3, 1, 2)

    def _span(self, dimension: int, size: int) -> Span | None:
        """Return the span along rows (0) or columns (1); None if the convolution must not skip taps."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        # while tracing, sizes are not of type int; computing with them would restrict the traced program to one size
        if type(size) is not int or torch.compiler.is_exporting():
            return None
        # `torch.compile` can trace the function, but not its cache
        find = find_span if torch.compiler.is_compiling() else _cached_span
        return find(
            size, self.kernel_size[dimension], self.stride[dimension], self.padding[dimension], self.dilation[dimension]
        )


def crop_convolutions(module: nn.Module) -> None:
    """Turn every `torch.nn.Conv2d` in a module into a `CroppedConv2d`, in place, except instances of subclasses."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = CroppedConv2d
