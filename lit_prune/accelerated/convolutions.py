"""Convolutions computed as matrix products: convolutions of small feature maps, and those with sparse kernels."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.accelerated.inference import check_inference
from lit_prune.accelerated.linear import SparseLinear, dense_linear
from lit_prune.errors import expected
from lit_prune.functional.live_taps import count_outputs

GEOMETRY = ("kernel_size", "stride", "padding", "dilation")  # in the order of the arguments of `count_outputs`
_POINTWISE = [(1, 1), (1, 1), (0, 0), (1, 1)]


class ConvolutionMatrix(nn.Module):
    """A convolution of feature maps of one size, as one product with a matrix.

    The matrix holds no dead taps (kernel positions that only ever see padding).

    Args:
        input_shape: Channels, height and width of the inputs.
        used: Height and width of the part of the inputs that any output depends on.
        output_shape: Channels, height and width of the outputs.
        product: Linear layer that computes all numbers of an output from those of the used part of an input.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        used: tuple[int, int],
        output_shape: tuple[int, int, int],
        product: nn.Module,
    ) -> None:
        super().__init__()
        self.input_shape, self.used, self.output_shape = tuple(input_shape), tuple(used), tuple(output_shape)
        self.product = product

    @classmethod
    def of(cls, layer: nn.Conv2d, size: tuple[int, int], sparse: bool) -> "ConvolutionMatrix":
        """Make the matrix, dense or sparse, of a convolution without groups for inputs of one height and width."""
        weight = layer.weight.detach()
        # which pixel each tap reads for each output: convolve one-pixel images (a single 1) with one-tap kernels
        pixels = torch.eye(size[0] * size[1], dtype=weight.dtype).view(-1, 1, *size)
        taps = torch.eye(weight[0, 0].numel(), dtype=weight.dtype).view(-1, 1, *weight.shape[2:])
        meets = layer._conv_forward(pixels, taps, None)  # (pixels, taps, rows and columns of the output)
        matrix = torch.einsum("oit,ptq->oqip", weight.flatten(2), meets.flatten(2))
        read = (matrix != 0).any((0, 1, 2)).view(size)
        height, width = (int((read.any(dim) * torch.arange(1, size[1 - dim] + 1)).max()) for dim in (1, 0))
        used = max(1, height), max(1, width)
        matrix = matrix.view(*matrix.shape[:3], *size)[..., : used[0], : used[1]].flatten(2).flatten(0, 1).contiguous()
        output = (layer.out_channels, *meets.shape[2:])
        bias = None if layer.bias is None else layer.bias.detach().repeat_interleave(meets[0, 0].numel())
        product = SparseLinear.of(matrix, bias) if sparse else dense_linear(matrix, bias)
        return cls((layer.in_channels, *size), used, output, product)

    def forward(self, input: Tensor) -> Tensor:
        """Convolve feature maps (..., channels, height, width) of the size for which the matrix was made."""
        if input.shape[-3:] != self.input_shape:
            wanted, found = ("x".join(map(str, shape)) for shape in (self.input_shape, input.shape[-3:]))
            hint = "give inputs of the size of `example_input`, or accelerate the network for another size"
            raise expected(f"feature maps of {wanted} in an accelerated network", found, hint)
        pixels = input[..., : self.used[0], : self.used[1]].flatten(-3)
        output: Tensor = self.product(pixels)
        return output.view(*input.shape[:-3], *self.output_shape)


class SparseConv2d(nn.Module):
    """A `torch.nn.Conv2d` without groups that multiplies only non-zero weights, with the pixels that they see.

    Args:
        in_channels: Number of input channels.
        out_channels: Number of output channels.
        nonzero: Number of weights that are not zero.
        bias: Whether there is a bias.
        geometry: `kernel_size`, `stride`, `padding` and `dilation`, each for height and width.
    """

    def __init__(
        self, in_channels: int, out_channels: int, nonzero: int, bias: bool, geometry: dict[str, tuple[int, int]]
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.geometry = {name: (int(sizes[0]), int(sizes[1])) for name, sizes in geometry.items()}
        rows, columns = self.geometry["kernel_size"]
        self.product = SparseLinear(in_channels * rows * columns, out_channels, nonzero, bias)
        self._pointwise = [self.geometry[name] for name in GEOMETRY] == _POINTWISE

    @classmethod
    def of(cls, layer: nn.Conv2d) -> "SparseConv2d":
        """Make the layer from a dense one, with padding mode "zeros" and a padding given in pixels, not as "same"."""
        geometry: Any = {name: getattr(layer, name) for name in GEOMETRY}
        product = SparseLinear.of(layer.weight.flatten(1), layer.bias)
        made = cls(layer.in_channels, layer.out_channels, len(product.values), layer.bias is not None, geometry)
        made.product = product
        return made

    def forward(self, input: Tensor) -> Tensor:
        """Convolve feature maps (N, in_channels, H, W); the outputs (N, out_channels, H', W') are contiguous."""
        check_inference(input)
        sizes = zip(input.shape[-2:], *(self.geometry[name] for name in GEOMETRY), strict=True)
        height, width = (count_outputs(*dimension) for dimension in sizes)
        # (N, taps of all input channels, pixels)
        seen = input.flatten(2) if self._pointwise else F.unfold(input, **self.geometry)
        columns = seen.permute(1, 0, 2).reshape(self.product.in_features, -1)
        output = self.product.multiply_columns(columns.contiguous())
        if self.product.bias is not None:
            output.add_(self.product.bias[:, None])
        maps = output.view(self.out_channels, len(input), height, width)
        return maps.transpose(0, 1).contiguous()
