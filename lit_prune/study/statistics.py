"""Means over seeds, and how sure they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

__all__ = ["Estimate", "estimate"]

_CONFIDENCE = 0.95


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
    half = _t_quantile(n - 1) * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, n)


@cache
def _t_quantile(freedom: int) -> float:
    """The t within which 95% of a t distribution with a whole number of degrees of freedom lie."""
    low, high = 0.0, math.pi / 2
    while True:
        angle = (low + high) / 2
        if angle in (low, high):
            return math.sqrt(freedom) * math.tan(angle)
        if _inside(angle, freedom) < _CONFIDENCE:
            low = angle
        else:
            high = angle


def _inside(angle: float, freedom: int) -> float:
    """P(|T| < t) for t = sqrt(freedom) tan(angle); the finite sums 26.7.3 and 26.7.4 of Abramowitz and Stegun."""
    sine, cosine = math.sin(angle), math.cos(angle)
    odd = freedom % 2
    term = cosine if odd else 1.0
    terms = [term] if freedom > 1 else []
    for k in range(2 + odd, freedom - 1, 2):
        term *= cosine**2 * (k - 1) / k
        terms.append(term)
    total = sine * math.fsum(terms)
    return (angle + total) * 2 / math.pi if odd else total
