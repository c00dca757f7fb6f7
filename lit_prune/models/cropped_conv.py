"""Convolutions that skip dead taps: kernel positions that only ever see padding.

For images of 32x32 pixels, the last stages of a ResNet-18 work on feature maps of 2x2 pixels and of one pixel, where
most taps of a 3x3 kernel multiply padding. Skipping these multiplications changes neither outputs nor gradients, and
saves most of the time of these layers.
"""

import itertools
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.functional.live_taps import count_outputs, find_live_taps

Window = tuple[slice, slice]  # along one dimension, the pixels that an output reads, and the taps that read them
Part = tuple[int, slice]  # a row, and columns in it
Product = tuple[int, Part, Part]  # number of an output, pixels that it reads, and the taps that read them

# A layer that needs P matrix products is computed by them if images * input channels * output channels is at least P
# times this number. Below that, an ordinary convolution was faster (measured with 1 to 128 images, 64 to 512 channels,
# 1 and 2 threads, AVX2 instructions).
_WORK_PER_PRODUCT = 2**16


@dataclass(frozen=True)
class Span:
    """The parts of the kernel and of the input that a convolution uses, along one dimension.

    Attributes:
        taps: Kernel positions that are needed, from `find_live_taps`.
        padding: Zeros to add on each side of the input if only these taps are used.
        windows: For each output, the pixels that it reads and the taps that read them. Empty if the kernel is dilated,
            if an output reads only padding, or if there are no outputs.
        reads: Number of pixels in all windows.
    """

    taps: slice
    padding: int
    windows: tuple[Window, ...]
    reads: int


def find_span(size: int, kernel: int, stride: int, padding: int, dilation: int) -> Span:
    """Find the parts of the kernel and of the input that a convolution uses; arguments as in `find_live_taps`."""
    taps = find_live_taps((size,), kernel, stride, padding, dilation)
    outputs = count_outputs(size, kernel, stride, padding, dilation)
    windows = []
    for left in range(-padding, outputs * stride - padding, stride):  # position of the first tap, in pixels
        first, stop = max(0, left), min(size, left + kernel)
        windows.append((slice(first, stop), slice(first - left, stop - left)))
    if dilation != 1 or any(pixels.start >= pixels.stop for pixels, _ in windows):
        windows = []
    reads = sum(pixels.stop - pixels.start for pixels, _ in windows)
    return Span(taps, padding - taps.start * dilation, tuple(windows), reads)


_cached_span = lru_cache(maxsize=1024)(find_span)


def _needs_gradient(input: Tensor, weight: Tensor) -> bool:
    return torch.is_grad_enabled() and (input.requires_grad or weight.requires_grad)


def _crop(input: Tensor, weight: Tensor, rows: slice, columns: slice) -> Tensor:
    if torch.compiler.is_compiling() or not _needs_gradient(input, weight):
        # faster: compilers optimize slices, and without a gradient the convolution makes the only copy
        return weight[:, :, rows, columns]
    cropped: Tensor = _Crop.apply(weight, rows, columns)
    return cropped


class _Crop(torch.autograd.Function):
    """Slice a kernel; the gradient has the memory layout of the whole kernel.

    The gradient of an ordinary slice is contiguous, and autograd would have to copy it for a channels_last weight.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor, rows: slice, columns: slice) -> Tensor:
        return weight[:, :, rows, columns].clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, slice, slice], output: Tensor) -> None:
        weight, ctx.rows, ctx.columns = inputs
        ctx.shape, ctx.strides = weight.shape, weight.stride()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        whole = gradient.new_empty_strided(ctx.shape, ctx.strides).zero_()
        whole[:, :, ctx.rows, ctx.columns] = gradient
        return whole, None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, _: None, __: None) -> Tensor:
        return tangent[:, :, ctx.rows, ctx.columns].clone()


def _list_products(rows: tuple[Window, ...], columns: tuple[Window, ...]) -> list[Product]:
    """List the matrix products of a convolution: for each output, one for each row of pixels that it reads."""
    return [
        (output, (pixel_row, pixels), (tap_row, taps))
        for output, ((pixel_rows, tap_rows), (pixels, taps)) in enumerate(itertools.product(rows, columns))
        for pixel_row, tap_row in zip(
            range(pixel_rows.start, pixel_rows.stop), range(tap_rows.start, tap_rows.stop), strict=True
        )
    ]


def _add_products(input: Tensor, weight: Tensor, products: list[Product]) -> Tensor:
    """Compute the outputs of a convolution, (images, outputs, channels), as sums of matrix products."""
    outputs: list[Tensor] = []
    for output, pixels, taps in products:
        left, right = _matrix(input, pixels), _matrix(weight, taps).t()
        if output == len(outputs):
            outputs.append(left @ right)
        else:
            outputs[output] = torch.addmm(outputs[output], left, right)
    return torch.stack(outputs, 1)


def _matrix(tensor: Tensor, part: Part) -> Tensor:
    """Return a part of images or kernels (N, channels, rows, columns) as (N, columns * channels).

    This is a view if the tensor is channels_last, and otherwise a copy.
    """
    values = _part(tensor, part)
    return values.reshape(len(values), values.shape[1] * values.shape[2])


def _part(tensor: Tensor, part: Part) -> Tensor:
    row, columns = part
    return tensor.permute(0, 2, 3, 1)[:, row, columns]


def _accumulate(part: Tensor, left: Tensor, right: Tensor) -> None:
    """Add a matrix product to a part of a gradient, in place."""
    is_matrix = part.stride(2) == 1 and (part.shape[1] == 1 or part.stride(1) == part.shape[2])
    is_batched = torch._C._functorch.is_legacy_batchedtensor(left)  # by `is_grads_batched` of `torch.autograd.grad`
    # faster than the sum below, but neither differentiable nor possible for batched gradients
    if is_matrix and not is_batched and not torch.is_grad_enabled():
        matrix = part.flatten(1)
        torch.addmm(matrix, left, right, out=matrix)
    else:
        part += (left @ right).view(part.shape)


class _AddProducts(torch.autograd.Function):
    """`_add_products` with gradients that are added up in place.

    With ordinary slices, autograd would allocate a gradient of the size of the whole weight for each slice.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(input: Tensor, weight: Tensor, products: list[Product]) -> Tensor:
        return _add_products(input, weight, products)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, list[Product]], output: Tensor) -> None:
        input, weight, ctx.products = inputs
        ctx.save_for_backward(input, weight)
        ctx.save_for_forward(input, weight)

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        input, weight = ctx.saved_tensors
        grad_input = grad_weight = None
        if ctx.needs_input_grad[0]:
            count, channels, height, width = input.shape
            grad_input = grad_output.new_zeros(count, height, width, channels).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_output.new_empty_strided(weight.shape, weight.stride()).zero_()
        for output, pixels, taps in ctx.products:
            gradient = grad_output[:, output]
            if grad_input is not None:
                _accumulate(_part(grad_input, pixels), gradient, _matrix(weight, taps))
            if grad_weight is not None:
                _accumulate(_part(grad_weight, taps), gradient.t(), _matrix(input, pixels))
        return grad_input, grad_weight, None

    @staticmethod
    def jvp(ctx: Any, input_tangent: Tensor, weight_tangent: Tensor, _: None) -> Tensor:
        input, weight = ctx.saved_tensors
        return _add_products(input_tangent, weight, ctx.products) + _add_products(input, weight_tangent, ctx.products)


class CroppedConv2d(nn.Conv2d):
    """A `torch.nn.Conv2d` that skips dead taps: kernel positions that, at the input's size, only see padding.

    Parameters, state dict, outputs and gradients are those of `torch.nn.Conv2d` at any input size; dead taps get a
    gradient of exactly zero. Nothing is skipped if `padding_mode` is not "zeros", if `padding` is a string such as
    "same", or if the input size is unknown (tracing, export).

    On the CPU, layers with few output pixels and many channels are computed as matrix products: in a ResNet-18 for
    32x32 images, those whose outputs are single pixels and, in batches of at least 8 to 20 images, those whose outputs
    have 2x2 pixels. Weights should be channels_last then; other layouts are copied. Not with groups, dilation, half
    precision, autocast or `torch.compile`.
    """

    plain_class = nn.Conv2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        rows, columns = self._span(0, input.shape[-2]), self._span(1, input.shape[-1])
        padding: Any = self.padding
        if rows is not None and columns is not None:
            if self._products_are_faster(input, weight, rows.reads * len(columns.windows)):
                return self._multiply(input, weight, bias, rows, columns)
            if (rows.taps.stop - rows.taps.start, columns.taps.stop - columns.taps.start) != self.kernel_size:
                weight = _crop(input, weight, rows.taps, columns.taps)
                padding = (rows.padding, columns.padding)
        if weight.shape[2:] == (1, 1) and padding == (0, 0) and weight.shape[1] < 16:
            # Slicing the input gives the same result as a stride, and avoids a bug: without AVX-512, oneDNN 3.12
            # corrupts memory in the backward pass of a 1x1 convolution with a stride above 1, in the channels_last
            # layout, with fewer than 7 input channels. With many channels, a stride is faster for a single image.
            pixels = input[..., :: self.stride[0], :: self.stride[1]]
            return F.conv2d(pixels, weight, bias, groups=self.groups)
        if padding is not self.padding:
            return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
        ordinary: Tensor = super()._conv_forward(input, weight, bias)
        return ordinary

    def _products_are_faster(self, input: Tensor, weight: Tensor, count: int) -> bool:
        """Tell whether matrix products can compute the outputs, and take less time than an ordinary convolution."""
        # compilers take long for many products; convolutions in half precision are faster
        if not count or self.groups != 1 or input.dim() != 4 or not input.is_cpu or torch.compiler.is_compiling():
            return False
        exact = input.dtype == weight.dtype and input.dtype in (torch.float32, torch.float64)
        if not exact or torch.is_autocast_enabled("cpu"):
            return False
        return bool(len(input) * self.in_channels * self.out_channels >= count * _WORK_PER_PRODUCT)

    def _multiply(self, input: Tensor, weight: Tensor, bias: Tensor | None, rows: Span, columns: Span) -> Tensor:
        add = _AddProducts.apply if _needs_gradient(input, weight) else _add_products
        output: Tensor = add(input, weight, _list_products(rows.windows, columns.windows))
        if bias is not None:
            output = output + bias
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
