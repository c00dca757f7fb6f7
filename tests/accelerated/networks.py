"""Small networks with zeros."""

from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.accelerated.convolutions import ConvolutionMatrix, SparseConv2d
from lit_prune.accelerated.linear import SparseLinear

CONVERTED = (ConvolutionMatrix, SparseConv2d, SparseLinear)


def prune(network: nn.Module, sparsity: float = 0.8) -> Any:
    """Set random weights to zero, in place, and biases and norms to random values; return it in evaluation mode."""
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.dim() > 1:
                parameter.mul_(torch.rand_like(parameter) >= sparsity)
            else:
                parameter.uniform_(0.5, 1.5)
    return network.eval()


def make_images() -> nn.Sequential:
    """A network for images of 8x8 pixels, whose last convolutions see 2x2 pixels and one."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        nn.Conv2d(8, 8, 1),
        nn.AvgPool2d(4),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.Conv2d(12, 6, 3, stride=2, padding=1, bias=False),
        nn.Flatten(),
        nn.Linear(6, 5),
    )


class Attends(nn.Module):
    """Self-attention and cross-attention, with everything that an attention can be given."""

    def __init__(self, batch_first: bool = True, **options: bool | int) -> None:
        super().__init__()
        self.own = nn.MultiheadAttention(12, 3, batch_first=batch_first, **options)
        self.cross = nn.MultiheadAttention(12, 2, batch_first=batch_first, **options)

    def forward(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        first, weights = self.own(first, first, first)
        return self.cross(first, second, second, need_weights=False)[0], weights


def kinds_of(network: nn.Module) -> dict[str, type[nn.Module]]:
    """Return the converted layers by name, without the layers inside them."""
    found: dict[str, type[nn.Module]] = {}
    for name, module in network.named_modules():
        if isinstance(module, CONVERTED) and not any(name.startswith(f"{outer}.") for outer in found):
            found[name] = type(module)
    return found
