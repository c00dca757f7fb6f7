"""Time several functions fairly: they take turns, so that other load on the machine slows all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lit_prune.errors import check_integer, expected

_MAX_CALLS = 10_000


@dataclass(frozen=True)
class Latency:
    """Duration of one call, measured in several rounds.

    Attributes:
        seconds: For each round, the mean duration of a call. At least one value, all positive.
    """

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or not min(self.seconds) > 0:
            raise expected("rounds of positive duration", str(list(self.seconds)), "measure longer")

    @property
    def median(self) -> float:
        """Median duration over all rounds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Duration in the fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Duration in the slowest round."""
        return max(self.seconds)

    def ratio(self, other: "Latency") -> float:
        """Divide the durations by those of `other`, round by round, and return the median of these ratios.

        Each ratio uses durations of one round, because the machine is about equally busy during one round.
        """
        if len(self.seconds) != len(other.seconds):
            raise expected(f"{len(self.seconds)} rounds", len(other.seconds), "measure both at the same time")
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def measure(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    turn: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.05,
) -> dict[str, Latency]:
    """Measure the latency of several functions that take turns.

    In every round each function has one turn, in a random but reproducible order, so that no function always follows
    the same other one. A turn has three parts: a pause of `pause` seconds, because threads of the previous function may
    still occupy the cores; one untimed call, which loads the function's data into the CPU caches again; and timed
    calls, at least one, for about `turn` seconds. `clock` returns the time in seconds.
    """
    check_integer("rounds", rounds, 1, hint="11 rounds give a stable median on most machines")
    repeats = {}
    for name, call in calls.items():
        call()  # the first call is slow, because it initialises caches
        began = clock()
        call()
        repeats[name] = max(1, min(_MAX_CALLS, int(turn / max(clock() - began, 1e-9))))
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    draw = random.Random(0)  # noqa: S311 - an order, not a secret
    for _ in range(rounds):
        for name in draw.sample(list(calls), len(calls)):
            call = calls[name]
            time.sleep(pause)
            call()
            began = clock()
            for _ in range(repeats[name]):
                call()
            seconds[name].append((clock() - began) / repeats[name])
    return {name: Latency(tuple(values)) for name, values in seconds.items()}
