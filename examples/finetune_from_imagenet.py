"""Fine-tune ImageNet weights with lower learning rates for earlier layers.

    cd examples && lit-prune fit --config finetune_from_imagenet.yaml

`DiscriminativeResNet18` is a `LitResNet18` with a learning rate for each part: early layers, which already detect edges
and colours, have lower learning rates than late layers (discriminative fine-tuning, Howard & Ruder 2018,
arXiv:1801.06146).
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from lit_prune import LitResNet18


class DiscriminativeResNet18(LitResNet18):
    """A ResNet-18 with the highest learning rate in its head and the lowest in its first convolution.

    Args:
        weights: Initial weights of the backbone: "IMAGENET1K_V1", or the path of a file with weights of torchvision.
        lr: Learning rate of the head.
        decay: Factor by which the learning rate is multiplied from one part of the network to the part before it.
    """

    def __init__(self, weights: str | None = "IMAGENET1K_V1", lr: float = 1e-3, decay: float = 0.5) -> None:
        super().__init__(weights=weights)
        self.lr, self.decay = lr, decay

    def configure_optimizers(self) -> Any:
        """Return Adam with one parameter group for each part of the network."""
        groups = [
            {"params": list(part.parameters()), "lr": self.lr * self.decay**depth}
            for depth, part in enumerate(self._parts())
        ]
        return torch.optim.Adam(groups, fused=True)

    def _parts(self) -> Iterator[nn.Module]:
        """Yield the parts of the network, the head first and the first convolution last."""
        yield self.head
        yield from (self.backbone.layer4, self.backbone.layer3, self.backbone.layer2, self.backbone.layer1)
        yield nn.ModuleList([self.backbone.conv1, self.backbone.bn1])
