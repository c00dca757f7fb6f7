"""Replace layers of a network by others."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import nn

from lit_prune.accelerated.attention import OpenAttention


def convert(network: nn.Module, attentions: Mapping[str, bool], layers: Mapping[str, nn.Module]) -> nn.Module:
    """Replace attentions and layers of a network in place, for inference.

    Args:
        network: Network of ordinary layers, in evaluation mode.
        attentions: Names of attentions to replace by an `OpenAttention`, and whether each projects its inputs in one
            product.
        layers: For each layer to replace, by name, the new layer. A projection of an attention has the name that it has
            in the `OpenAttention`.

    Returns:
        The network, or the layer that replaces the network itself if that is a single layer.
    """
    closed: dict[str, Any] = {name: network.get_submodule(name) for name in attentions}
    opened = {name: OpenAttention(closed[name], packed) for name, packed in attentions.items()}
    network = replace_layers(network, opened)
    for name, encoder in network.named_modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(inner.startswith(name) for inner in opened):
            encoder.use_nested_tensor = False  # it would read the weights of its layers
    return replace_layers(network, layers).requires_grad_(False).eval()


@contextmanager
def using(network: nn.Module, layers: Mapping[str, nn.Module]) -> Iterator[nn.Module]:
    """Replace layers of a network, by name, inside a `with` block; the name "" is the network itself."""
    before = {name: network.get_submodule(name) for name in layers}
    yield replace_layers(network, layers)
    replace_layers(network, before)


def replace_layers(network: nn.Module, layers: Mapping[str, nn.Module]) -> nn.Module:
    """Replace layers of a network, by name, and return the network, or the layer that replaces the network itself."""
    for name, layer in layers.items():
        if not name:
            return layer
        parent, _, child = name.rpartition(".")
        setattr(network.get_submodule(parent), child, layer)
    return network
