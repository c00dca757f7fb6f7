"""Random numbers that depend only on a purpose and a key, not on earlier draws.

They are made from the raw output of NumPy's PCG64, the only stream that NumPy and torch guarantee across versions, so
that a split stays the same.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """Purpose of a draw; equal keys of different purposes give independent draws."""

    SPLIT = 1
    SHUFFLE = 2
    AUGMENT = 3
    SYNTHETIC = 4


def generator(purpose: Purpose, *key: int) -> np.random.PCG64:
    """Return a new bit generator for a purpose and a key of integers in [0, 2**32).

    A purpose always has the same number of them, because `SeedSequence` pads short keys with zeros.
    """
    return np.random.PCG64(np.random.SeedSequence([purpose, *key]))


def random_bits(count: int, purpose: Purpose, *key: int) -> NDArray[np.uint64]:
    """Draw `count` numbers of 64 independent random bits: `(count,) uint64`."""
    return np.asarray(generator(purpose, *key).random_raw(count), dtype=np.uint64)


def permutation(count: int, purpose: Purpose, *key: int) -> NDArray[np.int64]:
    """Draw a permutation of the integers below `count`: `(count,) int64`."""
    return np.argsort(random_bits(count, purpose, *key), kind="stable").astype(np.int64, copy=False)


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Order images so that classes take turns, each class in random order.

    Every slice of the order is class-balanced, as far as its length allows and until a class runs out. Validation and
    training sets of any size are slices of it. It is a permutation of the images' indices, `(N,) int64`.
    """
    shuffled = permutation(len(labels), Purpose.SPLIT, seed)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    turns = np.concatenate([np.arange(count) for count in counts])
    return by_class[np.argsort(turns, kind="stable")]
