"""Pruning schedules: sparsity as a function of time, which is counted in epochs or in optimizer steps."""

import math
from collections.abc import Callable

from lit_prune.errors import check_choice, expected

Schedule = Callable[[float], float]
"""Function that returns which fraction of `amount` is pruned, for a progress between 0 and 1."""

# functions of the progress of the ramp, from 0 to 1, and of the sparsity to reach; they return a sparsity
SCHEDULES: dict[str, Callable[[float, float], float]] = {
    "once": lambda progress, amount: amount,
    "constant": lambda progress, amount: amount,
    "linear": lambda progress, amount: amount * progress,
    "cubic": lambda progress, amount: amount * (1 - (1 - progress) ** 3),
    "cosine": lambda progress, amount: amount * (1 - math.cos(math.pi * progress)) / 2,
    # 1 - (1 - amount)**progress, exact for small amounts too
    "geometric": lambda progress, amount: -math.expm1(progress * math.log1p(-amount)),
}


def check_schedule(schedule: Schedule | str) -> None:
    """Raise an `InputError` unless this is the name of a schedule, or a function."""
    if not callable(schedule):
        check_choice("schedule", schedule, list(SCHEDULES))


def sparsity_at(
    time: int, amount: float, start: int = 0, end: int | None = None, schedule: Schedule | str = "cubic", every: int = 1
) -> float:
    """Return the sparsity that a schedule sets for an epoch or an optimizer step.

    Sparsity ramps from 0 at `start` to `amount` at `end`. With t, which grows from 0 to 1 between them, it is

    - "linear": `amount * t`;
    - "cubic": `amount * (1 - (1 - t)**3)` (Zhu & Gupta, "To prune, or not to prune", 2017);
    - "cosine": `amount * (1 - cos(pi * t)) / 2`;
    - "geometric": `1 - (1 - amount)**t`: each step prunes the same fraction of the remaining weights, as in iterative
      magnitude pruning (Frankle & Carbin, "The lottery ticket hypothesis", 2019);
    - "once" or "constant": `amount` from `start` on;
    - a function: `amount * function(t)`.

    Args:
        time: Epoch or optimizer step, counted from 0.
        amount: Sparsity to reach.
        start: Time at which the ramp starts, or, without `end`, at which all of `amount` is pruned.
        end: Time at which the ramp reaches `amount`. None prunes all at once, at `start`.
        schedule: One of `SCHEDULES`, or a function that returns values in [0, 1].
        every: Time between two steps of the ramp; the last step is at `end`.

    Raises:
        InputError: If the function returns a value outside [0, 1].
    """
    if time < start:
        return 0.0
    if end is None or time >= end:
        return amount
    progress = (time - start) // every * every / (end - start)
    if not callable(schedule):
        return SCHEDULES[schedule](progress, amount)
    fraction = schedule(progress)
    if not 0 <= fraction <= 1:
        what = f"a fraction of `amount` in [0, 1] from the schedule at {progress:.3g} of the ramp"
        raise expected(what, fraction, "return 0 at the start of the ramp and 1 at its end")
    return amount * fraction


def first_pruning_time(start: int, end: int | None, schedule: Schedule | str = "cubic", every: int = 1) -> int:
    """Return the first time at which weights can be pruned; the arguments are those of `sparsity_at`."""
    at_once = end is None or sparsity_at(start, 0.5, start, end, schedule, every) > 0
    return start if at_once or end is None else min(start + every, end)
