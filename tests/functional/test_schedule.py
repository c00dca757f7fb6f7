"""Schedules of sparsity."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_prune.functional.schedule import SCHEDULES, Schedule, first_pruning_time, sparsity_at


@pytest.mark.parametrize(
    ("schedule", "levels"),
    [
        ("linear", [0.0, 0.0, 0.2, 0.4, 0.6, 0.8, 0.8]),
        ("cubic", [0.0, 0.0, 0.4625, 0.7, 0.7875, 0.8, 0.8]),
        ("geometric", [0.0, 0.0, 1 - 0.2**0.25, 1 - 0.2**0.5, 1 - 0.2**0.75, 0.8, 0.8]),
    ],
)
def test_schedules(schedule: str, levels: list[float]) -> None:
    assert [sparsity_at(epoch, 0.8, 1, 5, schedule) for epoch in range(7)] == pytest.approx(levels)
    assert sparsity_at(5, 0.8, 1, 5, schedule) == 0.8
    assert [sparsity_at(epoch, 0.3, 2) for epoch in range(4)] == [0.0, 0.0, 0.3, 0.3]


def test_steps() -> None:
    levels = [sparsity_at(epoch, 0.8, 1, 6, "linear", every=2) for epoch in range(8)]
    assert levels == pytest.approx([0, 0, 0, 0.32, 0.32, 0.64, 0.8, 0.8])


def test_the_geometric_steps_of_the_lottery_ticket_hypothesis() -> None:
    """Frankle & Carbin prune 20% of the remaining weights in each round."""
    amount = 1 - 0.8**5
    left = [1 - sparsity_at(round_ * 10, amount, 0, 50, "geometric", 10) for round_ in range(6)]
    assert [b / a for a, b in pairwise(left)] == pytest.approx([0.8] * 5)


@given(
    st.floats(0, 1, exclude_max=True, allow_subnormal=False),
    st.integers(0, 5),
    st.none() | st.integers(0, 12),
    st.sampled_from([*SCHEDULES, lambda progress: progress**2]),
    st.integers(1, 20),
)
def test_a_schedule_never_decreases_and_ends_at_the_amount(
    amount: float, start: int, length: int | None, schedule: Schedule | str, step: int
) -> None:
    end = None if length is None else start + length
    levels = [sparsity_at(epoch, amount, start, end, schedule, step) for epoch in range(30)]
    assert levels == sorted(levels)
    assert levels[-1] == amount
    assert all(0 <= level <= amount for level in levels)
    first = first_pruning_time(start, end, schedule, step)
    assert not any(levels[:first])
    assert (levels[first] > 0) == (amount > 0)
