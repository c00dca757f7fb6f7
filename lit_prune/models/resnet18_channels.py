"""Give the layers of a ResNet-18 fewer channels.

Layers whose outputs are added in a residual connection must have the same number of channels. So the layers form
thirteen groups whose numbers of channels can be chosen independently; a group is named after its first layer.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from lit_prune.errors import expected

_STAGES = {1: 64, 2: 128, 3: 256, 4: 512}

# number of channels of each group in a ResNet-18
FULL_CHANNELS: dict[str, int] = {
    # the outputs of stage 1 are added to those of the first convolution
    "backbone.conv1": 64,
    **{f"backbone.layer{stage}.{block}.conv1": width for stage, width in _STAGES.items() for block in (0, 1)},
    **{f"backbone.layer{stage}.0.conv2": width for stage, width in _STAGES.items() if stage > 1},
    "head.0": 100,
}


def check_channels(channels: Mapping[str, int]) -> None:
    """Raise an `InputError` unless every name is in `FULL_CHANNELS`, and every number between 1 and the full number."""
    for name, number in channels.items():
        if name not in FULL_CHANNELS:
            raise expected(
                "`channels` to name layers whose channels can be set",
                f"`{name}`",
                f"they are {', '.join(FULL_CHANNELS)}; the channels of all other layers follow from these",
            )
        if not isinstance(number, int) or not 1 <= number <= FULL_CHANNELS[name]:
            raise expected(
                f"`channels` of `{name}` in [1, {FULL_CHANNELS[name]}]",
                number,
                "leave the layer out to keep all channels",
            )


def channels_of(state: Mapping[str, Tensor]) -> dict[str, int] | None:
    """Return the number of channels of each group that has fewer than a ResNet-18; None if there is no such group.

    The names in `state` may lack the prefix `backbone.`. Invalid shapes are ignored; loading `state` reports them.
    """
    found = {}
    for name, full in FULL_CHANNELS.items():
        weight = state.get(f"{name}.weight", state.get(f"{name.removeprefix('backbone.')}.weight"))
        if weight is not None and weight.dim() > 1 and 0 < len(weight) < full:
            found[name] = len(weight)
    return found or None


def set_channels(backbone: Any, head: nn.Sequential, channels: Mapping[str, int]) -> None:
    """Replace the layers of a backbone and a head by layers with `channels` output channels, in place.

    The weights are new and random. Layers of groups that are not in `channels` get the full number.
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
