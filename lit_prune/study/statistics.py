"""Means over seeds, with confidence intervals."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit

_UPPER = 0.975  # the 5% outside the interval are half above and half below it


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% confidence interval.

    Attributes:
        mean: Mean.
        low: Lower end of the interval; None for one value, which gives no interval.
        high: Upper end of the interval, likewise.
        n: Number of values.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Ends of the interval, both the mean without one."""
        return (self.mean, self.mean) if self.low is None or self.high is None else (self.low, self.high)

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Iterable[float]) -> Estimate | None:
    """Estimate the mean of finite values, one per seed, with Student's t distribution; None for no values."""
    numbers = list(values)
    n = len(numbers)
    if not n:
        return None
    mean = statistics.mean(numbers)  # exact: that of equal values is their value
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stdtrit(n - 1, _UPPER)) * statistics.stdev(numbers) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)
