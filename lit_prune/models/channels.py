"""How many channels the layers of a ResNet-18 have: those that can differ, and what follows from them.

Both summands of a residual connection have the same channels, so the layers of a network are tied together. The names
here are those of the thirteen groups that are left, each called after the first layer that puts its channels out.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_prune.errors import expected

__all__ = ["FULL_CHANNELS", "channels_of", "check_channels", "narrow"]

_STAGES = {1: 64, 2: 128, 3: 256, 4: 512}

# layer by its name in the state dict -> its outputs in the usual network
FULL_CHANNELS: dict[str, int] = {
    # all of stage 1 adds to what the first convolution puts out
    "backbone.conv1": 64,
    **{f"backbone.layer{stage}.{block}.conv1": width for stage, width in _STAGES.items() for block in (0, 1)},
    **{f"backbone.layer{stage}.0.conv2": width for stage, width in _STAGES.items() if stage > 1},
    "head.0": 100,
}


def check_channels(channels: Mapping[str, int]) -> None:
    """Check that a ResNet-18 can have these channels.

    Args:
        channels: Outputs by layer.

    Raises:
        InputError: If a name is not one of `FULL_CHANNELS`, or a number is not in [1, its usual one].
    """
    for name, number in channels.items():
        if name not in FULL_CHANNELS:
            raise expected(
                "`channels` to name layers that decide about channels",
                f"`{name}`",
                f"those are {', '.join(FULL_CHANNELS)}; all others follow from them",
            )
        if not isinstance(number, int) or not 1 <= number <= FULL_CHANNELS[name]:
            raise expected(
                f"`channels` of `{name}` in [1, {FULL_CHANNELS[name]}]", number, "leave it out for the usual number"
            )


def channels_of(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Read from the shapes of weights which channels their network has.

    Args:
        state: Weights by name, with or without the `backbone.` that ours begin with.

    Returns:
        The outputs of those layers that have fewer than usual, None where none has. Shapes that no network of ours
        could have are left to whoever loads the weights.
    """
    found = {}
    for name, usual in FULL_CHANNELS.items():
        weight = state.get(f"{name}.weight", state.get(f"{name.removeprefix('backbone.')}.weight"))
        if weight is not None and weight.dim() > 1 and 0 < len(weight) < usual:
            found[name] = len(weight)
    return found or None


def set_channels(backbone: Any, head: nn.Sequential, channels: Mapping[str, int]) -> None:
    """Give layers fewer channels, in place, with new random weights.

    Args:
        backbone: torchvision's ResNet-18, whose classifier is not touched.
        head: Linear, ReLU, linear.
        channels: Outputs by layer, as `check_channels` accepts them; layers left out have their usual number.
    """
    width = FULL_CHANNELS | dict(channels)
    stream = width["backbone.conv1"]
    backbone.conv1, backbone.bn1 = _convolution(backbone.conv1, 3, stream), nn.BatchNorm2d(stream)
    for stage in _STAGES:
        outputs = width.get(f"backbone.layer{stage}.0.conv2", stream)
        for number, block in enumerate(getattr(backbone, f"layer{stage}")):
            inner = width[f"backbone.layer{stage}.{number}.conv1"]
            block.conv1, block.bn1 = _convolution(block.conv1, stream, inner), nn.BatchNorm2d(inner)
            block.conv2, block.bn2 = _convolution(block.conv2, inner, outputs), nn.BatchNorm2d(outputs)
            if block.downsample is not None:
                block.downsample[0] = _convolution(block.downsample[0], stream, outputs)
                block.downsample[1] = nn.BatchNorm2d(outputs)
            stream = outputs
    last: Any = head[2]
    head[0] = nn.Linear(stream, width["head.0"])
    head[2] = nn.Linear(width["head.0"], last.out_features)


def _convolution(like: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    convolution = nn.Conv2d(inputs, outputs, like.kernel_size, like.stride, like.padding, bias=False)  # type: ignore[arg-type]
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
