"""What an exported file says of itself, so that it can be used where nobody knows where it came from."""

import json
from typing import Any

from jsonargparse import Namespace
from torch import nn

from lit_prune import __version__
from lit_prune.data.augment import MEAN, STD
from lit_prune.errors import InputError
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.network import Network
from lit_prune.trained.scoring import data_module, typed_data

__all__ = ["cropped_convolutions", "describe"]


def describe(network: Network, given: Namespace, channels: int, sparsity: float) -> dict[str, str]:
    """Collect the texts that are stored with an exported network.

    Args:
        network: What is exported.
        given: What was typed; of the images' size, and of data, which says more than the checkpoint.
        channels: Of the images.
        sparsity: Fraction of the weights that are zero.

    Returns:
        `lit_prune_version`, `input` and `sparsity`; where the data are known, `class_names` in the order of the logits
        and `preprocessing` as well. All but the first are JSON.
    """
    size = given.input_size
    texts: dict[str, Any] = {
        "input": {"layout": "NCHW", "channels": channels, "height": size, "width": size, "dtype": "float32"},
        "sparsity": round(sparsity, 6),
    }
    if isinstance(network.model, LitResNet18) and ("data" in network.settings or typed_data(given)):
        try:
            texts["class_names"] = data_module(network, given).class_names
        except InputError:  # images of another class's data: what they are called is not ours to say
            pass
        else:
            texts["preprocessing"] = {
                "colours": "RGB",
                "pixels": [0, 255],
                "scale": 1 / 255,
                "mean": MEAN,
                "std": STD,
                "formula": "(pixel * scale - mean) / std, for each colour",
            }
    return {"lit_prune_version": __version__} | {name: json.dumps(value) for name, value in texts.items()}


def cropped_convolutions(original: nn.Module, cropped: nn.Module) -> dict[str, dict[str, list[int]]]:
    """Name the convolutions that were made smaller, with what a weight does not tell: their new padding.

    Args:
        original: A network.
        cropped: What `lit_prune.functional.cropping.cropped` made of it.

    Returns:
        For each layer by name its `kernel_size` and `padding`.
    """
    smaller = dict(cropped.named_modules())
    return {
        name: {"kernel_size": list(now.kernel_size), "padding": [int(zeros) for zeros in now.padding]}
        for name, layer in original.named_modules()
        if isinstance(layer, nn.Conv2d) and isinstance(now := smaller[name], nn.Conv2d)
        if now.kernel_size != layer.kernel_size
    }
