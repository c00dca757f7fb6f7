"""Means over seeds, and how sure they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit

__all__ = ["Estimate", "estimate"]

_UPPER = 0.975  # what the interval leaves above it is half of 5%


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% confidence interval.

    Attributes:
        mean: The mean.
        low: Lower end of the interval; None with one value, which gives no interval.
        high: Upper end.
        n: How many values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def half_width(self) -> float | None:
        """Half the length of the interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Iterable[float]) -> Estimate | None:
    """Estimate a mean by the t distribution.

    Args:
        values: One finite number a seed, in any order.

    Returns:
        The mean and its 95% interval, of width 0 if all values are the same; None for no values.
    """
    numbers = sorted(values)
    n = len(numbers)
    if not n:
        return None
    if n == 1:
        return Estimate(numbers[0], None, None, 1)
    if numbers[0] == numbers[-1]:  # their mean, as it is rounded, may be another number
        return Estimate(numbers[0], numbers[0], numbers[0], n)
    mean = math.fsum(numbers) / n
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1))
    half = float(stdtrit(n - 1, _UPPER)) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)
