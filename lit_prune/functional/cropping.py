"""A network without the kernel taps that see nothing but padding at its input size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.plain import plain_copy

__all__ = ["crop_kernels", "kept_taps"]

Sizes = set[tuple[int, int]]


def crop_kernels(model: nn.Module, input_size: int | tuple[int, int], channels: int = 3) -> nn.Module:
    """Copy a model with smaller kernels that give the same outputs at one input size.

    A tap of a kernel that reads padding for every output multiplies zeros: whatever its weight is, the outputs are
    the same. In a ResNet-18 at 32x32 pixels these are 61.9% of the weights, for its last stages work on feature maps of
    four pixels and of one. The copy has ordinary `torch.nn.Conv2d` layers without these taps.

    Args:
        model: Any module that maps images `(N, channels, H, W)` to something; it is left as it is. Of its
            convolutions the plain `Conv2d` with zeros as padding are made smaller. One keeps its kernel where no
            symmetric padding would suit a smaller one, where it shares its weight with another layer, where it was not
            called as a module, and it keeps every tap that one of its calls needs.
        input_size: Height and width in pixels; one number for both. At another size the outputs would be wrong.
        channels: Of the images.

    Returns:
        What `plain` makes of the model, with smaller kernels. Its state dict has the same names.

    Raises:
        InputError: If the model does not take images of this size.
    """
    copied = plain_copy(model)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    with _sizes(copied) as seen, torch.no_grad():
        try:
            copied(_images(copied, channels, height, width))
        except RuntimeError as error:
            found = " ".join(str(error).split()).rstrip(".")
            what = f"a network that takes images of {channels}x{height}x{width}"
            raise expected(what, found, "give the size that it was trained at") from error
    held = [id(parameter) for layer in copied.modules() for parameter in layer.parameters(recurse=False)]
    for layer, sizes in seen.items():
        if held.count(id(layer.weight)) == 1:
            _crop(layer, sizes)
    return copied


def kept_taps(sizes: set[int], kernel: int, stride: int, padding: int, dilation: int) -> slice:
    """Find the fewest taps with which a convolution gives the same outputs, along one dimension.

    Args:
        sizes: Pixels of the inputs that it shall work on, at least one size.
        kernel: Taps of the kernel.
        stride: Step of the kernel between two outputs, in pixels.
        padding: Zeros on either side of the input.
        dilation: Distance between two taps, in pixels.

    Returns:
        The first range, among the shortest, that holds every tap which reads a pixel for an output and that needs as
        much padding on the left as on the right: `padding - start * dilation` zeros.
    """
    outputs = {size: _outputs(size, kernel, stride, padding, dilation) for size in sizes}
    live = [
        tap
        for tap in range(kernel)
        if any(0 <= out * stride - padding + tap * dilation < size for size in sizes for out in range(outputs[size]))
    ] or [0]
    for taps in range(live[-1] - live[0] + 1, kernel):
        for start in range(max(0, live[-1] - taps + 1), min(live[0], kernel - taps) + 1):
            left = padding - start * dilation
            if left >= 0 and all(_outputs(size, taps, stride, left, dilation) == outputs[size] for size in sizes):
                return slice(start, start + taps)
    return slice(0, kernel)


def _outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _images(model: nn.Module, channels: int, height: int, width: int) -> Tensor:
    some = next(model.parameters(), torch.empty(0))
    return torch.zeros(1, channels, height, width, dtype=some.dtype, device=some.device)


@contextmanager
def _sizes(model: nn.Module) -> Iterator[dict[nn.Conv2d, Sizes]]:
    """Note, for each convolution that may be cropped and is called, at which sizes."""
    seen: dict[nn.Conv2d, Sizes] = {}

    def note(layer: Any, inputs: tuple[Any, ...]) -> None:
        seen.setdefault(layer, set()).add(tuple(inputs[0].shape[-2:]))

    hooks = [
        layer.register_forward_pre_hook(note)
        for layer in model.modules()
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    ]
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _crop(layer: Any, sizes: Sizes) -> None:
    taps = [
        kept_taps(
            {size[dimension] for size in sizes},
            layer.kernel_size[dimension],
            layer.stride[dimension],
            layer.padding[dimension],
            layer.dilation[dimension],
        )
        for dimension in (0, 1)
    ]
    kernel = tuple(kept.stop - kept.start for kept in taps)
    if kernel == layer.kernel_size:
        return
    # clones: a view would keep, and save, the whole kernel
    weight = layer.weight.detach()[:, :, taps[0], taps[1]].clone()
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    layer.kernel_size = kernel
    layer.padding = tuple(
        before - kept.start * step for before, kept, step in zip(layer.padding, taps, layer.dilation, strict=True)
    )
    # what a `Conv2d` works out when it is made, for paddings other than zeros
    layer._reversed_padding_repeated_twice = [zeros for zeros in reversed(layer.padding) for _ in range(2)]
