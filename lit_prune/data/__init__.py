"""Batches of CIFAR-10, of synthetic images or of your own images, for a Lightning Trainer."""

from lit_prune.data.module import CIFAR10DataModule

__all__ = ["CIFAR10DataModule"]
