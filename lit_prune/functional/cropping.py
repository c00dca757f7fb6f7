"""A network without the kernel taps that see nothing but padding at its input size."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.live_taps import find_live_taps
from lit_prune.functional.plain import plain_copy

__all__ = ["crop_kernels"]

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
        find_live_taps(
            [size[dimension] for size in sizes],
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
