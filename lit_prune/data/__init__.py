"""Batches for a Lightning Trainer: CIFAR-10 or synthetic images, and your own images for predictions."""

from lit_prune.data.module import CIFAR10DataModule

__all__ = ["CIFAR10DataModule"]
