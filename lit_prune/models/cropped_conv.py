"""Convolutions that skip the kernel taps which see nothing but padding.

At 32x32 pixels the last stages of a ResNet-18 work on feature maps of four pixels and of one: most taps of a 3x3 kernel
multiply zeros there. Leaving them out changes no output and no gradient, and most of the time of such a layer.
"""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.functional.live_taps import count_outputs, find_live_taps

__all__ = ["CroppedConv2d", "Span", "crop_convolutions", "find_span"]

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Span:
    """What a convolution uses of its kernel and its input along one dimension.

    Attributes:
        taps: Kernel positions that are needed, from `find_live_taps`.
        padding: Zeros on either side of the input that these taps need.
        pixels: Number of first input pixels that hold every pixel that is read.
        windows: For each output, the taps that read these pixels. Empty unless every output reads all of them.
    """

    taps: slice
    padding: int
    pixels: int
    windows: tuple[slice, ...]


def find_span(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Find what a convolution uses of its kernel and its input; the arguments are those of `find_live_taps`."""
    taps = find_live_taps((size,), kernel, stride, padding, dilation)
    outputs = count_outputs(size, kernel, stride, padding, dilation)
    pixels = min(size, (outputs - 1) * stride + (kernel - 1) * dilation - padding + 1)
    starts = [padding - output * stride for output in range(outputs)]
    whole = pixels > 0 and dilation == 1 and padding + pixels <= kernel and all(start >= 0 for start in starts)
    windows = tuple(slice(start, start + pixels) for start in starts) if whole else ()
    return Span(taps, padding - taps.start * dilation, pixels, windows)


_cached_span = lru_cache(maxsize=1024)(find_span)


def _windows(weight: Tensor, *windows: Window) -> Tensor:
    """Copy windows of a kernel (outputs, inputs, rows, columns) to (windows, outputs, rows, columns, inputs)."""
    if torch.compiler.is_compiling():  # compilers see through slices, less well through a backward of our own
        return _stack(weight, windows)
    stacked: Tensor = _Windows.apply(weight, windows)
    return stacked


def _stack(weight: Tensor, windows: tuple[Window, ...]) -> Tensor:
    return torch.stack([weight[:, :, rows, columns].permute(0, 2, 3, 1) for rows, columns in windows])


class _Windows(torch.autograd.Function):
    """`_stack` with a gradient that has the weight's own layout in memory.

    The gradient of ordinary slices is contiguous, so that autograd copies it, strided, for a channels_last weight.
    This one becomes the weight's `.grad` as it is.
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
    """A convolution that computes with the taps of its kernel that can touch a real pixel at the input's size.

    Parameters, state dict, outputs and gradients are those of `torch.nn.Conv2d`, at any input size; a tap that does
    nothing gets a gradient of exactly zero. Where every output reads every pixel, as on the feature maps of one and
    of four pixels in a ResNet-18 at 32x32, the convolution is one matrix product without any multiplication by
    padding. It is the ordinary convolution where cropping would not be exact (padding other than zeros, or given by
    name; live taps that no symmetric padding centres), and where the size is not known yet (tracing, or export with
    dynamic sizes).
    """

    plain_class = nn.Conv2d

    def forward(self, input: Tensor) -> Tensor:
        """Convolve `(batch, inputs, height, width)`, as `torch.nn.Conv2d` does."""
        original, mask = self._parameters.get("weight_orig"), self._buffers.get("weight_mask")
        rows, columns = self._span(0, input.shape[-2]), self._span(1, input.shape[-1])
        if original is None or mask is None or rows is None or columns is None or input.dim() != 4:
            return self._conv_forward(input, self.weight, self.bias)
        if self.groups != 1 or not 0 < 2 * self._entries(rows, columns) <= self.kernel_size[0] * self.kernel_size[1]:
            return self._conv_forward(input, self.weight, self.bias)
        # masked in the way of `torch.nn.utils.prune`: to multiply after cropping spares most of the product
        windows = list(product(rows.windows, columns.windows))
        return self._multiply(
            input, _windows(original, *windows) * _stack(mask, tuple(windows)), self.bias, rows, columns
        )

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self._span(0, input.shape[-2]), self._span(1, input.shape[-1])
        padding: Any = self.padding
        if rows is not None and columns is not None:
            if self._is_product(rows, columns) and input.dim() == 4:
                matrices = _windows(weight, *product(rows.windows, columns.windows))
                return self._multiply(input, matrices, bias, rows, columns)
            if (rows.taps.stop - rows.taps.start, columns.taps.stop - columns.taps.start) != self.kernel_size:
                (weight,) = _windows(weight, (rows.taps, columns.taps)).permute(0, 1, 4, 2, 3)
                padding = (rows.padding, columns.padding)
        if weight.shape[2:] == (1, 1) and padding == (0, 0):
            # Slicing first is exact and as fast, and avoids a bug: in the backward pass of such a layer with a stride
            # above 1, channels_last and fewer than 7 inputs, oneDNN 3.12 corrupts memory on processors without AVX-512
            pixels = input[..., :: self.stride[0], :: self.stride[1]]
            return F.conv2d(pixels, weight, bias, groups=self.groups)
        if padding is not self.padding:
            return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
        ordinary: Tensor = super()._conv_forward(input, weight, bias)
        return ordinary

    def _is_product(self, rows: Span, columns: Span) -> bool:
        """Tell whether the convolution is better computed as one matrix product."""
        # the matrix repeats taps, once per output that uses them: to copy many times the kernel would not pay
        entries = self._entries(rows, columns)
        return self.groups == 1 and 0 < entries <= 2 * self.kernel_size[0] * self.kernel_size[1]

    def _entries(self, rows: Span, columns: Span) -> int:
        """Count the taps in the matrix of the one product, repeated ones too; 0 where it is not possible."""
        return len(rows.windows) * len(columns.windows) * rows.pixels * columns.pixels

    def _multiply(self, input: Tensor, matrices: Tensor, bias: Tensor | None, rows: Span, columns: Span) -> Tensor:
        pixels = input[:, :, : rows.pixels, : columns.pixels].permute(0, 2, 3, 1)
        biases = None if bias is None else bias.repeat(len(matrices))
        output = F.linear(pixels.flatten(1), matrices.flatten(2).flatten(0, 1), biases)
        shape = (len(input), len(rows.windows), len(columns.windows), self.out_channels)
        return output.view(shape).permute(0, 3, 1, 2)

    def _span(self, dimension: int, size: int) -> Span | None:
        """Find the span along rows (0) or columns (1); None asks for the ordinary convolution."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        # a tracer's sizes are no plain ints; to compute with them would fix the size of what is traced or exported
        if type(size) is not int or torch.compiler.is_exporting():
            return None
        # compilers see through the function, not through its cache
        find = find_span if torch.compiler.is_compiling() else _cached_span
        return find(
            size,
            self.kernel_size[dimension],
            self.stride[dimension],
            self.padding[dimension],
            self.dilation[dimension],
        )


def crop_convolutions(module: nn.Module) -> None:
    """Turn every plain `torch.nn.Conv2d` in a module into a `CroppedConv2d`, in place.

    Args:
        module: Any module. Subclasses of `Conv2d` are left as they are. Parameters, buffers and hooks stay the very
            objects they were.
    """
    for layer in module.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = CroppedConv2d
