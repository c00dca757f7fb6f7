"""Random draws that depend on a purpose and a key alone, never on what was drawn before.

Everything is made from the raw output of NumPy's PCG64. Its stream is guaranteed from one NumPy version to the
next, which holds for no method of `numpy.random.Generator` and for no torch generator, so a split stays the same split.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

__all__ = ["Purpose", "balanced_order", "generator", "permutation", "random_bits"]


class Purpose(IntEnum):
    """What a draw is for: equal keys of different purposes give unrelated draws."""

    SPLIT = 1
    SHUFFLE = 2
    AUGMENT = 3
    SYNTHETIC = 4


def generator(purpose: Purpose, *key: int) -> np.random.PCG64:
    """Start the stream that belongs to a purpose and a key.

    Args:
        purpose: What the draw is for.
        *key: Whole numbers in [0, 2**32), always as many of them for one purpose: `SeedSequence` pads short keys with
            zeros and splits large numbers, so keys of other lengths could meet.

    Returns:
        A bit generator at its beginning.
    """
    return np.random.PCG64(np.random.SeedSequence([purpose, *key]))


def random_bits(count: int, purpose: Purpose, *key: int) -> NDArray[np.uint64]:
    """Draw `count` numbers of 64 independent random bits: `(count,) uint64`."""
    return np.asarray(generator(purpose, *key).random_raw(count), dtype=np.uint64)


def permutation(count: int, purpose: Purpose, *key: int) -> NDArray[np.int64]:
    """Draw an order of the numbers below `count`: `(count,) int64`."""
    return np.argsort(random_bits(count, purpose, *key), kind="stable").astype(np.int64, copy=False)


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Order images so that the classes take turns, each class in random order.

    Every stretch of the order holds the classes as evenly as its length allows, as long as no class has run out.
    So validation and training part, and any smaller training part, are stretches of one order.

    Args:
        labels: `(N,) int64`, the class of each image.
        seed: What the order depends on, besides the labels.

    Returns:
        `(N,) int64`, a permutation of the images' indices.
    """
    shuffled = permutation(len(labels), Purpose.SPLIT, seed)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    turns = np.concatenate([np.arange(count) for count in counts])
    return by_class[np.argsort(turns, kind="stable")]
