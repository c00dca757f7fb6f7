"""Remove dead taps from a network: kernel positions that only ever see padding at its input size."""

from typing import Any

import torch
from torch import nn

from lit_prune.errors import InputError, UnfinishedError, expected, one_line
from lit_prune.functional.live_taps import find_live_taps
from lit_prune.functional.plain import plain_copy


def crop_kernels(model: nn.Module, input_size: int | tuple[int, int], channels: int = 3) -> nn.Module:
    """Return a copy of a model with smaller kernels, whose outputs at one input size are the same.

    A kernel position that only ever sees padding (a "dead tap") multiplies zeros, so its weight has no effect. In a
    ResNet-18 at 32x32 pixels, 61.9% of the weights are at dead taps, because the last stages work on 2x2 feature maps
    and on single pixels.

    Only kernels of `Conv2d` layers (not of subclasses) whose zero padding is given in numbers become smaller. A dead
    tap stays if the kernel without it would need different padding on opposite sides. A kernel stays whole if it is
    shared with another layer, or if its layer is not called. If a layer is called with inputs of several sizes, a tap
    is removed only if it is dead at all of them.

    Args:
        model: Any module that takes images `(N, channels, H, W)`. It is not changed.
        input_size: Height and width in pixels, or one number for both. At other sizes, the outputs of the copy can
            differ from the model's.
        channels: Number of image channels.

    Returns:
        The `plain_copy` of the model with smaller kernels. Its state dict has the same names.

    Raises:
        InputError: If the forward pass fails for images of this size.
    """
    copied = plain_copy(model)
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    example = next(copied.parameters(), torch.empty(0))
    images = torch.zeros(1, channels, height, width, dtype=example.dtype, device=example.device)
    sizes: dict[nn.Conv2d, list[tuple[int, int]]] = {}  # input sizes of each convolution

    def record(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        sizes.setdefault(layer, []).append(tuple([*args, *kwargs.values()][0].shape[-2:]))

    hooks = [
        layer.register_forward_pre_hook(record, with_kwargs=True)
        for layer in copied.modules()
        if type(layer) is nn.Conv2d and layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    ]
    try:
        with torch.no_grad():
            copied(images)
    except (InputError, UnfinishedError, MemoryError):
        raise
    except Exception as error:  # a custom `forward` may raise anything
        what = f"a network that takes images of {channels}x{height}x{width}"
        raise expected(what, one_line(error), "give the image size that the network was trained at") from error
    for hook in hooks:
        hook.remove()
    parameters = [id(parameter) for layer in copied.modules() for parameter in layer.parameters(recurse=False)]
    for layer, seen in sizes.items():
        if parameters.count(id(layer.weight)) == 1:
            _crop(layer, seen)
    return copied


def _crop(layer: Any, sizes: list[tuple[int, int]]) -> None:
    geometry = zip(
        zip(*sizes, strict=True), layer.kernel_size, layer.stride, layer.padding, layer.dilation, strict=True
    )
    taps = [find_live_taps(*dimension) for dimension in geometry]
    kernel = tuple(live.stop - live.start for live in taps)
    if kernel == layer.kernel_size:
        return
    # cloned, because a view would keep the whole kernel in memory and in saved files
    weight = layer.weight.detach()[:, :, taps[0], taps[1]].clone()
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    layer.kernel_size = kernel
    layer.padding = tuple(
        before - live.start * step for before, live, step in zip(layer.padding, taps, layer.dilation, strict=True)
    )
    # `Conv2d.__init__` computes this from `padding`, which has changed
    layer._reversed_padding_repeated_twice = [zeros for zeros in reversed(layer.padding) for _ in range(2)]
