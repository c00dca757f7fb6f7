"""Timing, with a clock that only the timed calls advance."""

import time
from itertools import pairwise

import pytest

from lit_prune.errors import InputError
from lit_prune.trained.cost.latency import Latency, measure


class Machine:
    """A clock that advances only during calls."""

    def __init__(self):
        self.now = 0.0
        self.order: list[str] = []
        self.slowness = 1.0

    def taking(self, name, seconds):
        def call():
            self.order.append(name)
            self.now += seconds * self.slowness

        return call

    def clock(self):
        return self.now


def test_each_call_has_its_own_duration():
    machine = Machine()
    calls = {"quick": machine.taking("quick", 0.001), "slow": machine.taking("slow", 0.2)}
    found = measure(calls, rounds=3, turn=0.1, clock=machine.clock)
    assert found["quick"].seconds == pytest.approx([0.001] * 3)
    assert found["slow"].seconds == pytest.approx([0.2] * 3)
    assert found["slow"].ratio(found["quick"]) == pytest.approx(200)
    # two calls before the rounds and one before each turn are not timed
    assert machine.order.count("slow") == 2 + 3 * (1 + 1)
    assert machine.order.count("quick") == pytest.approx(2 + 3 * (1 + 100), abs=3)


def test_each_call_has_one_turn_in_every_round_and_follows_every_other():
    machine = Machine()
    measure({name: machine.taking(name, 1.0) for name in "abc"}, rounds=40, turn=0.1, clock=machine.clock, pause=0)
    turns = "".join(machine.order)[6::2]
    assert "".join(machine.order)[:6] == "aabbcc"
    assert all(sorted(turns[n : n + 3]) == list("abc") for n in range(0, len(turns), 3))
    followed = {first + second for first, second in pairwise(turns)}
    assert {first + second for first in "abc" for second in "abc" if first != second} <= followed


def test_there_is_a_pause_before_each_turn():
    began = time.monotonic()
    measure({"a": lambda: None, "b": lambda: None}, rounds=2, turn=1e-6, pause=0.05)
    assert time.monotonic() - began >= 4 * 0.05


def test_a_machine_that_slows_down_does_not_change_ratios():
    machine = Machine()

    def slowing():
        machine.slowness = 1.0 + machine.order.count("a") // 4
        machine.taking("a", 1.0)()

    found = measure({"a": slowing, "b": machine.taking("b", 2.0)}, rounds=5, turn=0.1, clock=machine.clock)
    assert found["a"].high > 2 * found["a"].low
    assert found["b"].ratio(found["a"]) == pytest.approx(2.0)


def test_median_and_spread():
    latency = Latency((3.0, 1.0, 2.0, 10.0))
    assert (latency.low, latency.median, latency.high) == (1.0, 2.5, 10.0)
    assert latency.ratio(Latency((1.0, 1.0, 2.0, 2.0))) == pytest.approx(2.0)


def test_unusable_arguments_are_refused():
    for latency in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(InputError, match="Expected rounds of positive duration, but got"):
            Latency(latency)
    with pytest.raises(InputError) as error:
        measure({"a": lambda: None}, rounds=0)
    assert str(error.value) == (
        "Expected `rounds` to be a positive integer, but got 0. HINT: 11 rounds give a stable median on most machines."
    )
    with pytest.raises(InputError) as error:
        Latency((1.0,)).ratio(Latency((1.0, 2.0)))
    assert str(error.value) == "Expected 1 rounds, but got 2. HINT: measure both at the same time."
