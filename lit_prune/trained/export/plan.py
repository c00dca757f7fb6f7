"""Prepare an export: the module and weights to write, and the metadata to store with them."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune import __version__
from lit_prune.data.augment import MEAN, STD
from lit_prune.errors import InputError
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.layers import layer_weights
from lit_prune.trained.network import Network
from lit_prune.trained.scoring import make_data, wants_data, wants_scores

# formats that store the network's operations, not only its weights
GRAPHS = ("onnx", "torchexport")


@dataclass(frozen=True)
class Export:
    """An export that is ready to be written.

    Attributes:
        network: Network to export.
        options: Parsed options.
        module: Copy of the network, made of torch's own layers and without masks; None if the architecture is not
            known.
        state: State dict to write.
        dense_bytes: Size of the state dict in bytes, before `--crop`.
        metadata: Strings to store with the weights, by name.
        channels: Number of channels of the images.
        weights: Number of weights in all layers, after `--crop`.
        zeros: Number of these weights that are zero.
        dropped: Number of weights that `--crop` removed.
        sparsity: `zeros / weights`.
    """

    network: Network
    options: Namespace
    module: nn.Module | None
    state: dict[str, Tensor]
    dense_bytes: int
    metadata: dict[str, str]
    channels: int
    weights: int
    zeros: int
    dropped: int
    sparsity: float

    @property
    def batch(self) -> int | None:
        """Batch size; None if the file takes batches of any size."""
        return None if self.options.batch in (None, "dynamic") else int(self.options.batch)


def prepare(network: Network, options: Namespace) -> Export:
    """Copy a network into torch's own layers, without masks.

    With `--crop`, the copy also lacks dead taps: kernel positions that only ever see padding.

    Raises:
        InputError: If the architecture is not known and an option needs it, or the network cannot process images
            of size `--input_size`.
    """
    needs_model = options.format in GRAPHS or options.crop or wants_scores(options)
    model = network.require_model() if needs_model else network.model
    channels = 3 if model is None else _image_channels(model)
    module, state, crops = None, network.state_dict, {}
    if model is not None:
        module = plain_copy(model).to(memory_format=torch.contiguous_format)
        state = module.state_dict()
    before = state
    if module is not None and options.crop:
        layers = dict(module.named_modules())
        module = crop_kernels(module, options.input_size, channels)
        state = module.state_dict()
        # kernel size and padding, to rebuild cropped convolutions: the shape of a weight does not show the padding
        crops = {
            name: {"kernel_size": list(layer.kernel_size), "padding": [int(zeros) for zeros in layer.padding]}
            for name, layer in module.named_modules()
            if isinstance(layer, nn.Conv2d) and layer.kernel_size != layers[name].kernel_size
        }
    names = [f"{name}.weight" for name in layer_weights(network) if f"{name}.weight" in state]
    total, weights = (sum(tensors[name].numel() for name in names) for tensors in (before, state))
    zeros = weights - sum(int(state[name].count_nonzero()) for name in names)
    sparsity = zeros / weights if weights else 0.0
    metadata = _metadata(network, options, channels, sparsity)
    if crops:
        metadata["cropped_convolutions"] = json.dumps(crops)
    dense_bytes = sum(tensor.nbytes for tensor in before.values())
    dropped = total - weights
    return Export(network, options, module, state, dense_bytes, metadata, channels, weights, zeros, dropped, sparsity)


def _image_channels(model: nn.Module) -> int:
    """Return the number of image channels: of `example_input_array`, or else of the first convolution, or else 3."""
    images = getattr(model, "example_input_array", None)
    if isinstance(images, Tensor) and images.dim() == 4:
        return images.shape[1]
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


def _metadata(network: Network, options: Namespace, channels: int, sparsity: float) -> dict[str, str]:
    """Describe the input, sparsity, classes and preprocessing for users of the file, as JSON strings."""
    size = options.input_size
    values: dict[str, Any] = {
        "input": {"layout": "NCHW", "channels": channels, "height": size, "width": size, "dtype": "float32"},
        "sparsity": round(sparsity, 6),
    }
    if isinstance(network.model, LitResNet18) and ("data" in network.settings or wants_data(options)):
        try:
            values["class_names"] = make_data(network, options).class_names
        except InputError:  # a custom data module, whose class names are not known
            pass
        else:
            values["preprocessing"] = {
                "colours": "RGB",
                "pixels": [0, 255],
                "scale": 1 / 255,
                "mean": MEAN,
                "std": STD,
                "formula": "(pixel * scale - mean) / std, for each colour",
            }
    return {"lit_prune_version": __version__} | {name: json.dumps(value) for name, value in values.items()}
