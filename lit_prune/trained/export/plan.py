"""What `lit-prune export` is about to write: which module, which weights, and what is said of them."""

import json
from dataclasses import dataclass

import torch
from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.plain import plain_copy
from lit_prune.trained.export.metadata import cropped_convolutions, describe
from lit_prune.trained.export.tracing import image_channels
from lit_prune.trained.layers import layer_weights
from lit_prune.trained.network import Network
from lit_prune.trained.scoring import typed_data

__all__ = ["GRAPHS", "Export", "prepare", "scored"]

GRAPHS = ("onnx", "torchexport")


@dataclass(frozen=True)
class Export:
    """What is to be written.

    Attributes:
        network: Where it comes from.
        given: What was typed.
        module: What computes the logits, in torch's own layers; None where the architecture is not known.
        state: The weights.
        whole: The weights before any was left out.
        metadata: Texts to store with them.
        channels: Of the images.
        weights: How many weights its layers have.
        zeros: How many of them are zero.
        dropped: How many were left out because they see padding alone.
    """

    network: Network
    given: Namespace
    module: nn.Module | None
    state: dict[str, Tensor]
    whole: dict[str, Tensor]
    metadata: dict[str, str]
    channels: int
    weights: int
    zeros: int
    dropped: int

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are zero."""
        return self.zeros / self.weights if self.weights else 0.0

    @property
    def batch(self) -> int | None:
        """Images in a batch; None leaves their number open."""
        return None if self.given.batch in (None, "dynamic") else int(self.given.batch)


def scored(given: Namespace) -> bool:
    """Say whether images were asked for."""
    return typed_data(given) or given.limit is not None


def prepare(network: Network, given: Namespace) -> Export:
    """Take masks, classes of ours and, if asked for, taps that see padding alone out of a network.

    Raises:
        InputError: If that needs an architecture that is not known, or images of another size.
    """
    needs_model = given.format in GRAPHS or given.crop or scored(given)
    model = network.require_model() if needs_model else network.model
    channels = 3 if model is None else image_channels(model)
    module = None if model is None else plain_copy(model).to(memory_format=torch.contiguous_format)
    whole = network.state_dict if module is None else module.state_dict()
    crops: dict[str, dict[str, list[int]]] = {}
    if module is not None and given.crop:
        smaller = crop_kernels(module, given.input_size, channels)
        crops = cropped_convolutions(module, smaller)
        module = smaller
    state = whole if module is None else module.state_dict()
    names = [f"{name}.weight" for name in layer_weights(network) if f"{name}.weight" in state]
    zeros = sum(state[name].numel() - int(state[name].count_nonzero()) for name in names)
    before, after = (sum(tensors[name].numel() for name in names) for tensors in (whole, state))
    metadata = describe(network, given, channels, zeros / after if after else 0.0)
    if crops:
        metadata["cropped_convolutions"] = json.dumps(crops)
    return Export(network, given, module, state, whole, metadata, channels, after, zeros, before - after)
