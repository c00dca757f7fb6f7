"""Prune in a loop of Lightning Fabric, and resume it from a checkpoint.

    cd examples && python fabric_loop.py    # takes a few seconds

A checkpoint needs no masks: the pruned weights are the zeros in it.
"""

import tempfile
from pathlib import Path

import torch
from lightning.fabric import Fabric
from moons import MoonsData
from torch import nn
from torch.nn import functional as F

from lit_prune.functional import (
    apply_masks,
    compute_masks,
    hold_masks,
    mask_gradients,
    sparsity_report,
    weight_layers,
)

EPOCHS, PRUNED = 20, 5  # number of epochs, and the epoch that starts with pruning


def train(first: int, last: int, file: Path) -> None:
    """Train from epoch `first` until epoch `last`, and print accuracy and sparsity.

    Args:
        first: First epoch. If it is not 0, training resumes from the file.
        last: Epoch at whose start training stops.
        file: Checkpoint to write after the last epoch.
    """
    fabric = Fabric(accelerator="cpu", devices=1)
    fabric.seed_everything(first, verbose=False)
    data = MoonsData()
    loader = fabric.setup_dataloaders(data.train_dataloader())
    net = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    model, optimizer = fabric.setup(net, torch.optim.AdamW(net.parameters(), lr=0.01))
    hold_masks(model, optimizer)  # the model and the optimizer that Fabric returns
    if first > 0:
        fabric.load(file, {"model": model, "optimizer": optimizer})
        if first > PRUNED:
            apply_masks(model, {ref.name: ref.tensor != 0 for ref in weight_layers(model)})
    for epoch in range(first, last):
        if epoch == PRUNED:
            apply_masks(model, compute_masks(weight_layers(model), amount=0.8))
        for points, labels in loader:
            optimizer.zero_grad()
            fabric.backward(F.cross_entropy(model(points), labels))
            mask_gradients(model)  # so that gradients of pruned weights do not count in the norm
            fabric.clip_gradients(model, optimizer, max_norm=1.0)
            optimizer.step()
    fabric.save(file, {"model": model, "optimizer": optimizer})
    with torch.no_grad():
        right = torch.cat([model(points).argmax(1) == labels for points, labels in data.test_dataloader()])
    sparsity = sparsity_report(weight_layers(model)).sparsity
    print(f"after {last} epochs: test accuracy {right.float().mean():.1%}, {sparsity:.1%} of the weights are zero")


def main() -> None:
    """Train, then resume from the checkpoint as a new process would."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "loop.ckpt"
        train(0, EPOCHS // 2, file)
        train(EPOCHS // 2, EPOCHS, file)


if __name__ == "__main__":
    main()
