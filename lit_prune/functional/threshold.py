"""Find the lowest scores over all layers or in each layer, fast and with little memory."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from math import inf, sqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_prune.errors import expected

_STRIDE = 97


def mark_lowest(scores: Callable[[], Iterable[Tensor]], room: Sequence[int], wanted: int) -> Iterator[Tensor]:
    """Mark the lowest scores over all layers.

    Ties are broken by the order of the layers and, within a layer, of its elements.

    Args:
        scores: Function that returns the scores of each layer, flat, all float32 or all float64. It is called twice, so
            that only one copy of all scores is in memory.
        room: Largest number of scores to mark in each layer.
        wanted: Number of scores to mark in total, from 1 to the sum of `room`.

    Yields:
        For each layer a bool tensor that is true for the lowest scores.

    Raises:
        InputError: If a score is NaN or infinite.
    """
    # of a layer with less room than scores, only the lowest scores can be marked
    pool = _concatenate(
        (
            values if most == len(values) else values[_mark_own_lowest(values, most)]
            for values, most in zip(scores(), room, strict=True)
        ),
        sum(room),
    )
    _check_finite(pool)
    threshold, ties = kth_smallest(pool, wanted)
    del pool
    for values, most in zip(scores(), room, strict=True):
        marked = values < threshold
        below = int(marked.count_nonzero())
        if below > most:
            marked = _mark_own_lowest(values, most)
        elif ties:
            tied = (values == threshold).nonzero().flatten()[: min(ties, most - below)]
            marked[tied] = True
            ties -= len(tied)
        yield marked


def mark_lowest_of_each(scores: Iterable[Tensor], wanted: Sequence[int]) -> Iterator[Tensor]:
    """Mark the lowest scores of each layer; ties are broken by the order of its elements.

    Args:
        scores: Scores of each layer, flat, float32 or float64.
        wanted: Number of scores to mark in each layer, at most as many as it has.

    Yields:
        For each layer a bool tensor that is true for its lowest scores.

    Raises:
        InputError: If a score is NaN or infinite.
    """
    for values, most in zip(scores, wanted, strict=True):
        _check_finite(values)
        yield _mark_own_lowest(values, most)


def kth_smallest(values: Tensor, k: int) -> tuple[float, int]:
    """Find the k-th smallest value exactly, and how many values equal to it are among the k smallest.

    A small sample brackets the value, so that only a few values need sorting (Floyd & Rivest, "Expected time bounds for
    selection", 1975). Only the running time depends on the sample, not the result.

    Args:
        values: Flat tensor on any device, float32 or float64, without NaN. It is not changed.
        k: Rank, from 1 to the number of values.
    """
    on_cpu = values.device.type == "cpu"
    # NumPy's sorting and counting are several times faster than torch's on a CPU
    array: Any = values.numpy() if on_cpu else values
    count: Callable[[Any], Any]
    sort, count = (np.sort, np.count_nonzero) if on_cpu else (torch.msort, torch.count_nonzero)

    sample = sort(array[::_STRIDE])
    share = k / len(array)
    rank = int(share * len(sample))
    margin = 2 + int(5 * sqrt(len(sample) * share * (1 - share)))
    low = float(sample[rank - margin]) if rank >= margin else -inf
    high = float(sample[rank + margin]) if rank + margin < len(sample) else inf
    below = int(count(array < low))
    band = array[(array >= low) & (array <= high)]
    if not below < k <= below + len(band):
        below, band = 0, array
    band = sort(band)
    value = float(band[k - 1 - below])
    less: Any = band < value
    return value, k - below - int(count(less))


def _check_finite(values: Tensor) -> None:
    if values.numel() and not all(end.isfinite() for end in torch.aminmax(values)):
        raise expected("finite scores", "NaN or infinity", "check the function that computes them")


def _concatenate(parts: Iterator[Tensor], total: int) -> Tensor:
    """Join tensors one at a time; `torch.cat` would need all of them and the result in memory."""
    first = next(parts)
    joined = first.new_empty(total)
    end = 0
    for part in chain([first], parts):
        joined[end : end + len(part)] = part
        end += len(part)
    return joined


def _mark_own_lowest(values: Tensor, wanted: int) -> Tensor:
    if wanted == 0:
        return torch.zeros_like(values, dtype=torch.bool)
    threshold, ties = kth_smallest(values, wanted)
    marked = values < threshold
    marked[(values == threshold).nonzero().flatten()[:ties]] = True
    return marked
