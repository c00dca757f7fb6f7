"""Convolutions that skip dead taps: kernel positions that only ever see padding.

For images of 32x32 pixels, the last stages of a ResNet-18 work on feature maps of 2x2 pixels and of one pixel, where
most taps of a 3x3 kernel multiply padding. Skipping these multiplications changes neither outputs nor gradients, and
saves most of the time of these layers.
"""

import itertools
from dataclasses import dataclass
from functools import cached_property, lru_cache
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

# Without gradients, a single product computes a layer with at most this many output pixels in a batch. An ordinary
# convolution would be slower because oneDNN copies the weights first. torch uses oneDNN for several images, and for one
# image if the kernel is larger than 3x3; otherwise, only layers with many weights gain (measured with 1 to 8 images, 3
# to 512 channels, 1 and 2 threads, AVX2 instructions, and weights that are not in the processor's cache).
_MAX_PIXELS = 128
_MAX_PIXELS_LARGE_KERNEL = 256
_MAX_PIXELS_ONE_IMAGE = 4
_MIN_WEIGHTS_ONE_IMAGE = 2**17


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


@dataclass(frozen=True)
class Plan:
    """The parts of the kernel and of the input that a convolution uses, for images of one size.

    Attributes:
        rows: These parts along rows.
        columns: These parts along columns.
        kernel: Rows and columns of the kernel.
        stride: Its steps along rows and columns.
        padding: Padding of rows and columns for the whole kernel.
        live: Rows and columns of the kernel without dead taps.
        shape: Rows and columns of output pixels; 0 if matrix products cannot compute them.
        outputs: Number of output pixels of an image; 0 if matrix products cannot compute them.
        reads: Number of `products`.
    """

    rows: Span
    columns: Span
    kernel: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    live: tuple[int, int]
    shape: tuple[int, int]
    outputs: int
    reads: int

    @property
    def is_linear(self) -> bool:
        """Whether there is one output pixel, and it reads one pixel."""
        return self.outputs == 1 and self.live == (1, 1)

    @cached_property
    def products(self) -> list[Product]:
        """Matrix products of the convolution: for each output, one for each row of pixels that it reads."""
        return [
            (output, (pixel_row, pixels), (tap_row, taps))
            for output, ((pixel_rows, tap_rows), (pixels, taps)) in enumerate(
                itertools.product(self.rows.windows, self.columns.windows)
            )
            for pixel_row, tap_row in zip(
                range(pixel_rows.start, pixel_rows.stop), range(tap_rows.start, tap_rows.stop), strict=True
            )
        ]


def make_plan(height: int, width: int, *settings: int) -> Plan:
    """Make the plan of a convolution.

    Args:
        height: Height of the input in pixels.
        width: Width of the input in pixels.
        settings: Kernel size, stride, padding and dilation, each for rows and for columns.
    """
    rows, columns = find_span(height, *settings[::2]), find_span(width, *settings[1::2])
    kernel, stride, padding = zip(settings[:6:2], settings[1:6:2], strict=True)
    live = (rows.taps.stop - rows.taps.start, columns.taps.stop - columns.taps.start)
    shape = (len(rows.windows), len(columns.windows))
    return Plan(rows, columns, kernel, stride, padding, live, shape, shape[0] * shape[1], reads=rows.reads * shape[1])


_cached_plan = lru_cache(maxsize=1024)(make_plan)


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


def _multiply_patches(input: Tensor, weight: Tensor, plan: Plan) -> Tensor:
    """Compute the outputs of a convolution by one matrix product, of the kernels and all patches that they see.

    The weights are read in place if they are channels_last, or have a single tap; otherwise they are copied.
    """
    count, channels, height, width = input.shape
    if plan.is_linear:
        _, (row, column), (tap_row, tap) = plan.products[0]
        outputs = F.linear(input[:, :, row, column.start], weight[:, :, tap_row, tap.start])
        return outputs.view(count, len(weight), 1, 1)
    (stride, step), (above, left) = plan.stride, plan.padding
    kernels = weight.permute(0, 2, 3, 1).flatten(1)
    # takes half the time of `torch.nn.functional.pad`
    pixels = input.new_zeros(count, height + 2 * above, width + 2 * left, channels)
    pixels[:, above : above + height, left : left + width] = input.permute(0, 2, 3, 1)
    strides = pixels.stride()
    shape = (count, *plan.shape, plan.kernel[0], plan.kernel[1] * channels)
    patches = pixels.as_strided(shape, (strides[0], stride * strides[1], step * strides[2], strides[1], 1))
    patches = patches.reshape(-1, kernels.shape[1])
    # with few patches, it is faster to have the large matrix, that of the kernels, on the left (measured as above)
    few = len(patches) <= 32
    outputs = torch.mm(kernels, patches.t()).t().contiguous() if few else torch.mm(patches, kernels.t())
    return outputs.view(count, *plan.shape, len(weight)).permute(0, 3, 1, 2)


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
    have 2x2 pixels. Without gradients, one matrix product computes a layer for a few images. Weights should be
    channels_last then; other layouts are copied. Not with groups, dilation, half precision, autocast or
    `torch.compile`.
    """

    plain_class = nn.Conv2d

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        plan = self._plan(input)
        padding: Any = self.padding
        if plan is not None:
            output = self._multiply(input, weight, plan) if plan.outputs else None
            if output is not None:
                return output if bias is None else output + bias.view(-1, 1, 1)
            if plan.live != plan.kernel:
                weight = _crop(input, weight, plan.rows.taps, plan.columns.taps)
                padding = (plan.rows.padding, plan.columns.padding)
        if self.in_channels < 16 * self.groups and weight.shape[2:] == (1, 1) and padding == (0, 0):
            # Slicing the input gives the same result as a stride, and avoids a bug: without AVX-512, oneDNN 3.12
            # corrupts memory in the backward pass of a 1x1 convolution with a stride above 1, in the channels_last
            # layout, with fewer than 7 input channels. With many channels, a stride is faster for a single image.
            pixels = input[..., :: self.stride[0], :: self.stride[1]]
            return F.conv2d(pixels, weight, bias, groups=self.groups)
        if padding is not self.padding:
            return F.conv2d(input, weight, bias, self.stride, padding, self.dilation, self.groups)
        ordinary: Tensor = super()._conv_forward(input, weight, bias)
        return ordinary

    def _multiply(self, input: Tensor, weight: Tensor, plan: Plan) -> Tensor | None:
        """Compute the outputs by matrix products, without the bias; return None if a convolution takes less time."""
        # compilers take long for many products
        if self.groups != 1 or input.dim() != 4 or torch.compiler.is_compiling():
            return None
        count, channels = input.shape[:2]
        if type(count) is not int or channels != self.in_channels:
            return None  # torch tells what is wrong with the channels
        needs_gradient = _needs_gradient(input, weight)
        use_one = not needs_gradient and self._is_small(count, plan)
        if not use_one and count * self.in_channels * self.out_channels < plan.reads * _WORK_PER_PRODUCT:
            return None
        # convolutions in half precision are faster
        exact = input.is_cpu and input.dtype == weight.dtype and input.dtype in (torch.float32, torch.float64)
        if not exact or torch.is_autocast_enabled("cpu"):
            return None
        if use_one:
            return _multiply_patches(input, weight, plan)
        add = _AddProducts.apply if needs_gradient else _add_products
        output: Tensor = add(input, weight, plan.products)
        return output.view(count, *plan.shape, self.out_channels).permute(0, 3, 1, 2)

    def _is_small(self, count: int, plan: Plan) -> bool:
        """Tell whether a single matrix product takes less time than a convolution, and than several products."""
        if plan.is_linear:
            return True
        pixels = count * plan.outputs
        height, width = plan.kernel
        if height > 3 or width > 3:
            return pixels <= _MAX_PIXELS_LARGE_KERNEL
        if count == 1:
            weights = self.in_channels * self.out_channels * height * width
            return pixels <= _MAX_PIXELS_ONE_IMAGE and weights >= _MIN_WEIGHTS_ONE_IMAGE
        return pixels <= _MAX_PIXELS and plan.live == plan.kernel

    def _plan(self, input: Tensor) -> Plan | None:
        """Return the plan of the convolution; None if it must not skip taps."""
        if self.padding_mode != "zeros" or isinstance(self.padding, str):
            return None
        height, width = input.shape[-2:]
        # while tracing, sizes are not of type int; computing with them would restrict the traced program to one size
        if type(height) is not int or type(width) is not int or torch.compiler.is_exporting():
            return None
        # `torch.compile` can trace the function, but not its cache
        make = make_plan if torch.compiler.is_compiling() else _cached_plan
        return make(height, width, *self.kernel_size, *self.stride, *self.padding, *self.dilation)


def crop_convolutions(module: nn.Module) -> None:
    """Turn every `torch.nn.Conv2d` in a module into a `CroppedConv2d`, in place, except instances of subclasses."""
    for layer in module.modules():
        if type(layer) is nn.Conv2d:
            layer.__class__ = CroppedConv2d
