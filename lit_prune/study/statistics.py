"""Means over random seeds, with confidence intervals."""

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from scipy.special import stdtrit

_UPPER = 0.975  # quantile: 2.5% of the distribution are above a 95% interval, and 2.5% below it


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds with its 95% confidence interval.

    Attributes:
        mean: Mean.
        low: Lower end of the interval; None if `n` is 1.
        high: Upper end of the interval; None if `n` is 1.
        n: Number of values, one per seed.
    """

    mean: float
    low: float | None
    high: float | None
    n: int

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the interval; if there is no interval, the mean twice."""
        return (self.mean, self.mean) if self.low is None or self.high is None else (self.low, self.high)

    @property
    def half_width(self) -> float | None:
        """Half the width of the interval; None if there is no interval."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def estimate(values: Iterable[float]) -> Estimate | None:
    """Estimate the mean of finite values, one per seed, by Student's t distribution; None if there are no values."""
    numbers = list(values)
    n = len(numbers)
    if not n:
        return None
    mean = statistics.mean(numbers)  # free of rounding errors: the mean of equal values is that value
    if n == 1:
        return Estimate(mean, None, None, 1)
    half = float(stdtrit(n - 1, _UPPER)) * statistics.stdev(numbers) / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


def seeds_to_exclude(found: Estimate, distance: float, most: int = 1000) -> int:
    """Estimate how many seeds it takes until the interval excludes a limit, if mean and spread stay the same.

    Args:
        found: The mean and interval of the seeds so far.
        distance: Distance of the limit from the mean.
        most: Largest number of seeds to try.

    Returns:
        The number of seeds; with a single seed, which has no spread, the smallest number that gives a useful interval,
        3. If `most` seeds are too few, `most + 1`.
    """
    if found.half_width is None:
        return 3
    spread = found.half_width * math.sqrt(found.n) / float(stdtrit(found.n - 1, _UPPER))
    counts = range(found.n + 1, most + 1)
    return next((n for n in counts if float(stdtrit(n - 1, _UPPER)) * spread / math.sqrt(n) < distance), most + 1)
