"""Random numbers that depend only on a purpose and a key such as (seed, epoch), not on earlier draws.

They are computed from the raw output of NumPy's PCG64, which NumPy guarantees to stay the same in all versions, so
that validation sets stay the same too.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Purpose(IntEnum):
    """What random numbers are used for. The same key gives independent numbers for different purposes."""

    SPLIT = 1
    SHUFFLE = 2
    AUGMENT = 3
    SYNTHETIC = 4


def generator(purpose: Purpose, *key: int) -> np.random.PCG64:
    """Return a new bit generator for a purpose and a key of integers in [0, 2**32).

    All keys of a purpose must have the same length, because `SeedSequence` pads short keys with zeros.
    """
    return np.random.PCG64(np.random.SeedSequence([purpose, *key]))


def random_bits(count: int, purpose: Purpose, *key: int) -> NDArray[np.uint64]:
    """Draw `count` numbers of 64 independent random bits: `(count,) uint64`."""
    return np.asarray(generator(purpose, *key).random_raw(count), dtype=np.uint64)


def permutation(count: int, purpose: Purpose, *key: int) -> NDArray[np.int64]:
    """Draw a permutation of the integers below `count`: `(count,) int64`."""
    return np.argsort(random_bits(count, purpose, *key), kind="stable").astype(np.int64, copy=False)


def balanced_order(labels: NDArray[np.int64], seed: int) -> NDArray[np.int64]:
    """Return the indices of all images, `(N,) int64`: classes alternate, and the images of each class are shuffled.

    Every slice of this order is class-balanced, as far as its length allows, unless a class has no images left.
    Validation and training sets are such slices.
    """
    shuffled = permutation(len(labels), Purpose.SPLIT, seed)
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    _, counts = np.unique(labels, return_counts=True)
    turns = np.concatenate([np.arange(count) for count in counts])
    return by_class[np.argsort(turns, kind="stable")]
