"""How long calls take, measured so that a noisy machine treats all of them alike."""

import random
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from lit_prune.errors import expected

__all__ = ["Latency", "measure"]

_MOST_CALLS = 10_000


@dataclass(frozen=True)
class Latency:
    """Seconds of one call, as the rounds of a measurement had it.

    Attributes:
        seconds: The mean of each round's calls, at least one.

    Raises:
        InputError: If there is no round, or one took no time.
    """

    seconds: tuple[float, ...]

    def __post_init__(self) -> None:
        if not self.seconds or not min(self.seconds) > 0:
            raise expected("rounds that took time", str(list(self.seconds)), "measure longer")

    @property
    def median(self) -> float:
        """The middle round."""
        return statistics.median(self.seconds)

    @property
    def low(self) -> float:
        """The fastest round."""
        return min(self.seconds)

    @property
    def high(self) -> float:
        """The slowest round."""
        return max(self.seconds)

    def over(self, other: "Latency") -> float:
        """How many times as long it takes as another that was measured with it: the median of the rounds' ratios.

        The two are compared within a round, when the machine was in one mood for both.

        Raises:
            InputError: If the other was measured in another number of rounds.
        """
        if len(self.seconds) != len(other.seconds):
            raise expected(
                f"{len(self.seconds)} rounds to compare with", len(other.seconds), "measure both at the same time"
            )
        return statistics.median(a / b for a, b in zip(self.seconds, other.seconds, strict=True))


def measure(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    turn: float = 0.1,
    clock: Callable[[], float] = time.perf_counter,
    pause: float = 0.05,
) -> dict[str, Latency]:
    """Let calls take turns, and time them.

    In every round each has one turn, in an order of chance that is the same every time, so that none always comes after
    the same one. Before a turn there is a pause: the threads of the one before may spin a while, in case there is more
    to do, and take the cores from others. Then comes a call that is not timed, which brings the weights back into the
    caches, and then the mean of as many calls as fill the time.

    Args:
        calls: What to time, by name.
        rounds: Turns of each, at least one.
        turn: Seconds that a turn shall last; a longer call is made once.
        clock: Tells the time in seconds.
        pause: Seconds before each turn.

    Returns:
        The latency of each, by name.

    Raises:
        InputError: If `rounds` is less than 1.
    """
    if rounds < 1:
        raise expected("`rounds` to be at least 1", rounds, "the median of eleven is steady on most machines")
    repeats = {}
    for name, call in calls.items():
        call()  # the first one makes what later ones find made
        began = clock()
        call()
        repeats[name] = max(1, min(_MOST_CALLS, int(turn / max(clock() - began, 1e-9))))
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
