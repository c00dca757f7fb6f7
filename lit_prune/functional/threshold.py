"""Find the lowest scores over all layers or in each layer, in one process or in several, with little memory."""

from collections.abc import Iterable, Iterator, Sequence
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_prune.functional.sharding import Split

_STRIDE = 97  # distance between the elements of a sample
_BITS = 12  # a histogram has at most 2**12 + 1 bins
_CHUNK = 1 << 20  # number of keys in memory at a time
_INFINITY = {4: 0x7F80_0000, 8: 0x7FF0_0000_0000_0000}  # key of infinity, by the size of a float in bytes


def mark_lowest(scores: list[Tensor], limits: Sequence[int | None], wanted: int, split: Split) -> Iterator[Tensor]:
    """Mark the lowest scores over all layers.

    Ties are broken by the order of the layers and, within a layer, of the elements of the whole weight.

    Args:
        scores: Scores of each layer, or of the part that this process holds: flat, all float32 or all float64, without
            NaN. Infinite scores are never marked. The list is emptied, to free memory early.
        limits: Largest number of scores to mark in each layer; None sets no limit.
        wanted: Number of scores to mark in total: at least 1, at most as many as are finite and within the limits.
        split: How the layers are divided between processes.

    Yields:
        For each layer a bool tensor that is true for the lowest scores.
    """
    for index, most in enumerate(limits):
        if most is not None:
            # only the lowest scores of this layer can be marked, so the others are set to infinity
            scores[index] = scores[index].masked_fill(~_mark_own_lowest(scores[index], most, split, index), inf)
    counted = [values if split.counted[index] else values[:0] for index, values in enumerate(scores)]
    threshold, ties = kth_smallest(counted, wanted, split)
    del counted
    for index in range(len(scores)):
        values = scores.pop(0)
        marked = values < threshold
        if ties:
            ties -= _mark_first(marked, values == threshold, ties, split, index)
        yield marked


def mark_lowest_of_each(scores: Iterable[Tensor], wanted: Sequence[int], split: Split) -> Iterator[Tensor]:
    """Mark the lowest scores of each layer; ties are broken by the order of the elements of the whole weight.

    Args:
        scores: Scores of each layer, as in `mark_lowest`.
        wanted: Number of scores to mark in each layer, at most as many as are finite.
        split: How the layers are divided between processes.

    Yields:
        For each layer a bool tensor that is true for its lowest scores.
    """
    for index, (values, count) in enumerate(zip(scores, wanted, strict=True)):
        yield _mark_own_lowest(values, count, split, index)


def kth_smallest(parts: Sequence[Tensor], k: int, split: Split | None = None) -> tuple[float, int]:
    """Find the k-th smallest value exactly, and how many values equal to it are among the k smallest.

    Each value has an integer key, and keys are ordered like the values. Histograms of keys, summed over the
    processes, narrow the search down to one key. Histograms of a small sample come first, so that few other values need
    keys (Floyd & Rivest, "Expected time bounds for selection", 1975). Only the running time depends on the sample.

    Args:
        parts: Values that this process counts: flat tensors, all float32 or all float64, without NaN.
        k: Rank, from 1 to the number of values in all processes.
        split: Sums counts over the processes. None if this process has all values.
    """
    split = split or Split()
    sample = np.concatenate([part[::_STRIDE].cpu().numpy() for part in parts])
    dtype, highest = sample.dtype, _INFINITY[sample.itemsize]
    keys = [*_keys([sample])]
    size, sampled = split.sums([sum(map(len, parts)), len(sample)])
    rank, margin = k * sampled // size, 2 + int(5 * sqrt(sampled * (k / size) * (1 - k / size)))
    first, last, low, high = rank - margin, rank + margin, -highest, highest
    for _ in range(3):
        low, high, passed = _narrow(keys, first, last, low, high, split)
        first, last = first - passed, last - passed

    ends = _value(low, dtype), _value(high, dtype)
    below, band = zip(*[_between(part, *ends) for part in parts], strict=True)
    before, between = split.sums([sum(below), sum(map(len, band))])
    if not before < k <= before + between:
        before, band, low, high = 0, tuple(part.cpu().numpy() for part in parts), -highest, highest
    rank = k - 1 - before
    while low < high:
        low, high, passed = _narrow(_keys(band), rank, rank, low, high, split)
        rank -= passed
    return _value(low, dtype), rank + 1


def count_finite(values: Tensor) -> int:
    """Count the values that are neither NaN nor infinite."""
    if values.device.type != "cpu":
        return int(values.isfinite().count_nonzero())
    # NumPy's counting and indexing are several times faster than torch's on a CPU
    return int(np.count_nonzero(np.isfinite(values.numpy())))


def _mark_own_lowest(values: Tensor, wanted: int, split: Split, index: int) -> Tensor:
    if wanted == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold, ties = kth_smallest([values if split.counted[index] else values[:0]], wanted, split)
    marked = values < threshold
    _mark_first(marked, values == threshold, ties, split, index)
    return marked


def _mark_first(marked: Tensor, tied: Tensor, most: int, split: Split, index: int) -> int:
    """Mark the first `most` of a layer's tied elements; return how many were marked in all processes."""
    elements = tied.nonzero().flatten()
    (number,) = split.sums([len(elements) if split.counted[index] else 0])
    if number > most and split.is_whole:
        elements = elements[:most]
    elif number > most:
        positions = split.positions(index, elements)
        counted = (positions if split.counted[index] else positions[:0]).cpu().numpy()
        low, high, rank = 0, split.sizes[index] - 1, most - 1
        while low < high:
            low, high, passed = _narrow(_chunks(counted), rank, rank, low, high, split)
            rank -= passed
        elements = elements[positions <= low]
    marked[elements] = True
    return min(number, most)


def _narrow(
    keys: Iterable[NDArray[np.int64]], first: int, last: int, low: int, high: int, split: Split
) -> tuple[int, int, int]:
    """Narrow an interval of keys to the part that contains the keys of given ranks.

    Args:
        keys: Keys that this process counts; those outside of the interval are ignored.
        first: Rank of the lowest key to keep, from 0, among the keys of all processes in the interval. If it is
            negative, the lower end of the interval stays as it is.
        last: Rank of the highest key to keep; if there are fewer keys, the upper end stays as it is.
        low: Lower end of the interval.
        high: Upper end of the interval.
        split: Sums counts over the processes.

    Returns:
        The new lower and upper end, and how many keys are between the old lower end and the new one.
    """
    shift = max(0, (high - low).bit_length() - _BITS)
    base, bins = low >> shift, (high >> shift) - (low >> shift) + 1
    counts = np.zeros(bins, np.int64)
    for chunk in keys:
        # an extra bin at each end counts the keys outside the interval, and is dropped; no other bin counts such keys,
        # because the interval begins and ends where a bin does
        places = np.clip((chunk >> shift) - (base - 1), 0, bins + 1)
        counts += np.bincount(places, minlength=bins + 2)[1:-1]
    ends = split.total(torch.from_numpy(counts)).numpy().cumsum()
    start, stop = map(int, np.searchsorted(ends, (first, last), side="right"))
    passed = int(ends[start - 1]) if start else 0
    return max(low, (base + start) << shift), min(high, ((base + stop + 1) << shift) - 1), passed


def _keys(parts: Iterable[NDArray[np.floating[Any]]]) -> Iterator[NDArray[np.int64]]:
    """Yield the keys of values, in chunks: integers that are ordered like the values."""
    for part in parts:
        for values in _chunks(part):
            # read as integers, the bits of non-negative floats are ordered like the floats; -0.0 has the key of 0.0
            keys = np.abs(values).view(f"i{values.itemsize}").astype(np.int64)
            yield np.negative(keys, out=keys, where=values < 0)


def _value(key: int, dtype: np.dtype[Any]) -> float:
    value = float(np.array(abs(key), f"i{dtype.itemsize}").view(dtype))
    return value if key >= 0 else -value


def _chunks(values: NDArray[Any]) -> Iterator[NDArray[Any]]:
    return (values[start : start + _CHUNK] for start in range(0, len(values), _CHUNK))


def _between(values: Tensor, low: float, high: float) -> tuple[int, NDArray[Any]]:
    """Return how many values are lower than an interval, and the values inside it, on the CPU."""
    if values.device.type != "cpu":
        inside = values >= low
        return len(values) - int(inside.count_nonzero()), values[inside & (values <= high)].cpu().numpy()
    array = values.numpy()
    reached = array >= low
    below = len(array) - int(np.count_nonzero(reached))
    reached &= array <= high
    return below, array[reached]
