"""Timing by a clock that the calls themselves move."""

import pytest

from lit_prune.errors import InputError
from lit_prune.trained.latency import Latency, measure


class Machine:
    """Its time passes only while something is called."""

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


def test_each_takes_its_own_time():
    machine = Machine()
    calls = {"quick": machine.taking("quick", 0.001), "slow": machine.taking("slow", 0.2)}
    found = measure(calls, rounds=3, turn=0.1, clock=machine.clock)
    assert found["quick"].seconds == pytest.approx([0.001] * 3)
    assert found["slow"].seconds == pytest.approx([0.2] * 3)
    assert found["slow"].over(found["quick"]) == pytest.approx(200)
    # two calls before the rounds, and one before each turn, are not timed
    assert machine.order.count("slow") == 2 + 3 * (1 + 1)
    assert machine.order.count("quick") == pytest.approx(2 + 3 * (1 + 100), abs=3)


def test_turns_alternate_and_every_other_round_goes_backwards():
    machine = Machine()
    measure({name: machine.taking(name, 1.0) for name in "abc"}, rounds=2, turn=0.1, clock=machine.clock)
    assert "".join(machine.order) == "aabbcc" + "aabbcc" + "ccbbaa"


def test_a_machine_that_slows_down_changes_no_ratio():
    machine = Machine()

    def slowing():
        machine.slowness = 1.0 + machine.order.count("a") // 4
        machine.taking("a", 1.0)()

    found = measure({"a": slowing, "b": machine.taking("b", 2.0)}, rounds=5, turn=0.1, clock=machine.clock)
    assert found["a"].high > 2 * found["a"].low
    assert found["b"].over(found["a"]) == pytest.approx(2.0)


def test_median_and_spread():
    latency = Latency((3.0, 1.0, 2.0, 10.0))
    assert (latency.low, latency.median, latency.high) == (1.0, 2.5, 10.0)
    assert latency.over(Latency((1.0, 1.0, 2.0, 2.0))) == pytest.approx(2.0)


def test_what_cannot_be_measured():
    for latency in ((), (0.0,), (1.0, -1.0)):
        with pytest.raises(InputError, match="Expected rounds that took time, but got"):
            Latency(latency)
    with pytest.raises(InputError) as error:
        measure({"a": lambda: None}, rounds=0)
    assert str(error.value) == (
        "Expected `rounds` to be at least 1, but got 0. HINT: the median of eleven is steady on most machines."
    )
    with pytest.raises(InputError) as error:
        Latency((1.0,)).over(Latency((1.0, 2.0)))
    assert str(error.value) == "Expected 1 rounds to compare with, but got 2. HINT: measure both at the same time."
