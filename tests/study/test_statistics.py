"""Means over seeds."""

import math
import statistics

import numpy as np
import pytest
from scipy import stats

from lit_prune.study.statistics import Estimate, estimate, seeds_to_exclude

# two-sided 95% quantiles of Student's t, from printed tables
QUANTILES = {1: 12.7062, 2: 4.3027, 3: 3.1824, 4: 2.7764, 5: 2.5706, 9: 2.2622, 10: 2.2281, 29: 2.0452, 120: 1.9799}


def test_three_values_by_hand():
    # mean 2, standard deviation 1, t = 4.30265 with two degrees of freedom: 4.30265 / sqrt(3) = 2.48414
    found = estimate([1.0, 2.0, 3.0])
    assert found is not None
    assert found.mean == 2.0
    assert found.n == 3
    assert found.low == pytest.approx(2 - 2.48414, abs=1e-5)
    assert found.high == pytest.approx(2 + 2.48414, abs=1e-5)
    assert found.half_width == pytest.approx(2.48414, abs=1e-5)


@pytest.mark.parametrize(("freedom", "quantile"), QUANTILES.items())
def test_quantiles_agree_with_printed_tables(freedom, quantile):
    n = freedom + 1
    draws = np.random.default_rng()
    values = draws.normal(5, 2, n).tolist()
    mean = sum(values) / n
    deviation = math.sqrt(sum((x - mean) ** 2 for x in values) / (n - 1))
    found = estimate(values)
    assert found is not None
    assert found.half_width == pytest.approx(quantile * deviation / math.sqrt(n), rel=1e-4)


def test_the_order_does_not_matter():
    draws = np.random.default_rng()
    values = draws.normal(size=7).tolist()
    assert estimate(values) == estimate(sorted(values)) == estimate(reversed(values))


def test_one_value_has_no_interval():
    assert estimate([0.25]) == Estimate(0.25, None, None, 1)
    assert Estimate(0.25, None, None, 1).half_width is None


def test_no_value_has_no_mean():
    assert estimate([]) is None


@pytest.mark.parametrize("value", [0.1, 0.0, -3.7])
def test_identical_values_give_an_interval_of_no_width(value):
    # in floating point, the sum of three 0.1 is not 0.3, but the mean must be 0.1
    assert estimate([value] * 3) == Estimate(value, value, value, 3)


def test_the_interval_covers_the_mean_in_95_of_100_cases():
    draws = np.random.default_rng(1)
    found = [estimate(row) for row in draws.normal(size=(4000, 3)).tolist()]
    covered = sum(e is not None and e.low is not None and e.high is not None and e.low <= 0 <= e.high for e in found)
    assert covered / 4000 == pytest.approx(0.95, abs=0.015)


def test_the_number_of_seeds_that_decides_is_the_smallest():
    found = estimate([0.50, 0.53, 0.47, 0.51])
    assert found is not None
    assert found.half_width is not None
    spread = statistics.stdev([0.50, 0.53, 0.47, 0.51])
    for distance in (0.03, 0.02, 0.005):
        count = seeds_to_exclude(found, distance)
        half = [stats.t.ppf(0.975, n - 1) * spread / math.sqrt(n) for n in (count - 1, count)]
        assert half[1] < distance <= half[0]
    assert seeds_to_exclude(found, 1e-6, most=50) == 51
    single = estimate([0.5])
    assert single is not None
    assert seeds_to_exclude(single, 0.1) == 3
