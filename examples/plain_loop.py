"""Prune gradually in a plain PyTorch loop.

    cd examples && python plain_loop.py    # takes a few seconds

Three calls are all that pruning adds to the loop: `hold_masks` once, `apply_masks` before each epoch, and, only
because the loop clips gradients, `mask_gradients`.
"""

import torch
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
from lit_prune.functional.schedule import sparsity_at

EPOCHS = 30


def main() -> None:
    """Train, and print accuracy and sparsity."""
    torch.manual_seed(0)
    data = MoonsData()
    model = nn.Sequential(nn.Linear(2, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    hold_masks(model, optimizer)  # from now on, pruned weights are zero after each step
    for epoch in range(EPOCHS):
        amount = sparsity_at(epoch, amount=0.8, end=15)  # 80% of all weights, by epoch 15
        apply_masks(model, compute_masks(weight_layers(model), amount))
        for points, labels in data.train_dataloader():
            optimizer.zero_grad()
            F.cross_entropy(model(points), labels).backward()
            mask_gradients(model)  # so that gradients of pruned weights do not count in the norm
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
    with torch.no_grad():
        right = torch.cat([model(points).argmax(1) == labels for points, labels in data.test_dataloader()])
    sparsity = sparsity_report(weight_layers(model)).sparsity
    print(f"test accuracy {right.float().mean():.1%}, {sparsity:.1%} of the weights are zero")


if __name__ == "__main__":
    main()
