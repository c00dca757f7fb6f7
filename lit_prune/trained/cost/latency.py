"""Time function calls fairly: they take turns, so that a noisy machine affects all of them alike."""

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
        seconds: Mean duration of a call in each round, at least one; all positive.
    """

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or not min(self.seconds) > 0:
            raise expected("rounds of positive duration", str(list(self.seconds)), "measure longer")

    @property
    def median(self) -> float:
        """Median of the rounds."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """Fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """Slowest round."""
        return max(self.seconds)

    def ratio(self, other: "Latency") -> float:
        """Return how many times as long this takes as another: the median of the ratios within each round.

        Within a round, the machine is about equally busy for both.
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
    """Time calls that take turns.

    In every round each call has one turn, in a random but reproducible order, so that none always follows the same
    other one. A turn begins with a pause, because threads of the previous call may keep spinning and occupy the cores;
    then one call that is not timed brings the weights back into the caches; then as many calls as fill the turn, at
    least one. `turn`, `pause` and `clock` are in seconds.
    """
    check_integer("rounds", rounds, 1, hint="the median of 11 is steady on most machines")
    repeats = {}
    for name, call in calls.items():
        call()  # the first call initialises what later calls reuse
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
