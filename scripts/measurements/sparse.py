"""Measure sparse products, and networks that `lit_prune.accelerate` converts."""

from collections.abc import Sequence

import torch
from torch import nn
from torchvision.models import resnet18

from lit_prune import accelerate
from lit_prune.accelerated.linear import SparseLinear, dense_linear
from lit_prune.accelerated.report import Acceleration
from lit_prune.functional import apply_masks, compute_masks, remove_masks, weight_layers
from lit_prune.trained.cost.latency import measure


def measure_product(
    outputs: int, inputs: int, rows: int, sparsities: Sequence[float], rounds: int
) -> dict[float, list[float]]:
    """Measure how many times as fast a sparse linear layer is as a dense one, for random weights.

    Returns:
        Ratios by sparsity, one for each round.
    """
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(outputs, inputs, generator=generator)
    bias, values = torch.zeros(outputs), torch.randn(rows, inputs, generator=generator)
    order = torch.rand(weight.shape, generator=generator)
    dense = dense_linear(weight, bias)
    layers = {f"{sparsity}": SparseLinear.of(weight * (order >= sparsity), bias) for sparsity in sparsities}
    with torch.inference_mode():
        calls = {"dense": lambda: dense(values)} | {
            name: (lambda layer=layer: layer(values)) for name, layer in layers.items()
        }
        found = measure(calls, rounds, turn=0.02, pause=0.02)
    whole = found.pop("dense").seconds
    return {
        sparsity: [one / other for one, other in zip(whole, found[f"{sparsity}"].seconds, strict=True)]
        for sparsity in sparsities
    }


def make_encoder(sparsity: float, layers: int = 12, width: int = 768) -> nn.Module:
    """Make a transformer encoder with the shapes of BERT, whose random weights are pruned globally by magnitude."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(width, width // 64, 4 * width, activation="gelu", batch_first=True)
    encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    for parameter in encoder.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.02)
    return _prune(encoder, sparsity)


def make_resnet(sparsity: float) -> nn.Module:
    """Make a ResNet-18 for 10 classes with random weights, pruned globally except in the last layer."""
    torch.manual_seed(0)
    return _prune(resnet18(num_classes=10), sparsity, exclude=["fc"])


def measure_network(network: nn.Module, shape: Sequence[int], rounds: int) -> Acceleration:
    """Accelerate a network for random inputs of a shape, and return the report."""
    example = torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))
    report = accelerate(network, example, rounds=rounds).acceleration
    assert isinstance(report, Acceleration)  # noqa: S101 - it is what `accelerate` promises
    return report


def _prune(network: nn.Module, sparsity: float, exclude: Sequence[str] = ()) -> nn.Module:
    weights = [ref for ref in weight_layers(network) if ref.name not in exclude]
    apply_masks(network, compute_masks(weights, sparsity))
    remove_masks(network)
    return network.eval()


def break_even(speeds: dict[float, float]) -> float | None:
    """Return the sparsity from which a sparse layer is faster, by linear interpolation between measured sparsities.

    Returns:
        None if it is slower at the highest sparsity; the lowest sparsity if it is faster from there on.
    """
    (last, speed), *others = sorted(speeds.items(), reverse=True)
    if speed < 1:
        return None
    for sparsity, slower in others:
        if slower < 1:
            return sparsity + (last - sparsity) * (1 - slower) / (speed - slower)
        last, speed = sparsity, slower
    return last
