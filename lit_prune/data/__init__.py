"""CIFAR-10, its synthetic stand-in and the user's own images, as batches for a Lightning Trainer."""

from lit_prune.data.module import CIFAR10DataModule

__all__ = ["CIFAR10DataModule"]
