"""Means over seeds, with confidence intervals."""

import math
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
    def half_width(self) -> float | None:
        """Half the width of the interval; None without one."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Iterable[float]) -> Estimate | None:
    """Estimate a mean with Student's t distribution.

    Args:
        values: One finite value per seed, in any order.

    Returns:
        The mean and its 95% interval, of width 0 if all values are the same; None for no values.
    """
    numbers = sorted(values)
    n = len(numbers)
    if not n:
        return None
    if n == 1:
        return Estimate(numbers[0], None, None, 1)
    if numbers[0] == numbers[-1]:  # rounding could make their mean differ from them
        return Estimate(numbers[0], numbers[0], numbers[0], n)
    mean = math.fsum(numbers) / n
    deviation = math.sqrt(math.fsum((x - mean) ** 2 for x in numbers) / (n - 1))
    half = float(stdtrit(n - 1, _UPPER)) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)
