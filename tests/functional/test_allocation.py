"""Allocations: how much of each layer is pruned."""

import re
from fractions import Fraction
from math import prod
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lit_prune.errors import InputError
from lit_prune.functional.allocation import allocate, erk, make_allocation, uniform

RESNET = {
    "conv1": (64, 3, 7, 7),
    "layer1": (64, 64, 3, 3),
    "down": (128, 64, 1, 1),
    "layer4": (512, 512, 3, 3),
    "fc": (10, 512),
}
shapes = st.lists(st.lists(st.integers(1, 40), min_size=2, max_size=4).map(tuple), min_size=1, max_size=8).map(
    lambda found: {f"layer{number}": shape for number, shape in enumerate(found)}
)


def rigl(layers: dict[str, tuple[int, ...]], amount: float) -> dict[str, float]:
    """ERK as in the appendix of the paper, in exact fractions: layers become dense one by one, until all fit."""
    dense = set[str]()
    while True:
        kept = (1 - Fraction(amount)) * sum(map(prod, layers.values())) - sum(prod(layers[name]) for name in dense)
        raw = {name: Fraction(sum(shape), prod(shape)) for name, shape in layers.items() if name not in dense}
        factor = kept / sum(value * prod(layers[name]) for name, value in raw.items()) if raw else Fraction(0)
        if not raw or max(raw.values()) * factor <= 1:
            return {name: float(1 - (1 if name in dense else factor * raw[name])) for name in layers}
        dense |= {name for name, value in raw.items() if value == max(raw.values())}


@given(shapes, st.floats(0, 0.99))
def test_erk_is_the_formula_of_the_paper(layers: dict[str, tuple[int, ...]], amount: float) -> None:
    found = erk(layers, amount)
    assert found == pytest.approx(rigl(layers, amount), abs=1e-12)
    assert all(0 <= fraction < 1 for fraction in found.values())
    sizes = {name: prod(shape) for name, shape in layers.items()}
    total = sum(sizes.values())
    assert sum(found[name] * size for name, size in sizes.items()) == pytest.approx(amount * total, abs=1e-12 * total)


def test_erk_keeps_small_layers_denser() -> None:
    found = erk(RESNET, 0.9)
    assert found["fc"] == found["down"] == found["conv1"] == 0
    assert 0 < found["layer1"] < found["layer4"] < 1


@given(shapes, st.floats(0, 0.9), st.floats(0.9, 1))
def test_limits_hold_and_the_total_stays(layers: dict[str, tuple[int, ...]], amount: float, limit: float) -> None:
    found = erk(layers, amount, limit)
    assert all(0 <= fraction <= limit + 1e-12 for fraction in found.values())
    sizes = {name: prod(shape) for name, shape in layers.items()}
    total = sum(sizes.values())
    assert sum(found[name] * size for name, size in sizes.items()) == pytest.approx(amount * total, abs=1e-12 * total)


def test_globs_name_layers_and_containers() -> None:
    allocation = make_allocation({"a.b": 0.9, "a": 0.3, "*.fc": 0}, 0.5)
    assert allocation is not None
    names = ["a.b.conv", "a.b", "a.conv", "ab.conv", "head.fc"]
    fractions = [0.9, 0.9, 0.3, 0.5, 0]
    assert allocation(dict.fromkeys(names, (2, 2)), 0.5) == dict(zip(names, fractions, strict=True))
    with pytest.raises(InputError, match=re.escape("`*.fc`, which matches none")):
        allocation({"a.b": (2, 2)}, 0.5)


def test_allocations_by_name() -> None:
    assert make_allocation("global", 0.5) is None
    assert make_allocation("global", 0.5, 0.9) is None
    assert make_allocation("uniform", 0.5) is uniform
    assert uniform(RESNET, 0.3) == dict.fromkeys(RESNET, 0.3)
    found: Any = make_allocation("erk", 0.9, 0.91)
    assert max(found(RESNET, 0.9).values()) == pytest.approx(0.91)


@pytest.mark.parametrize(
    ("allocation", "amount", "limit", "message"),
    [
        ("er", 0.5, None, "did you mean `erk`"),
        (None, 0.5, None, "`allocation` to be one of"),
        ({"fc": 1.0}, 0.5, None, "a fraction in [0, 1) for `fc` in `allocation`"),
        ({"fc": 0.5}, 0, None, "`amount` above 0"),
        ("uniform", 0.5, 0.9, "no `max_layer_sparsity`"),
        ({"fc": 0.5}, 0.5, 0.9, "no `max_layer_sparsity`"),
    ],
)
def test_bad_allocations_are_refused(allocation: Any, amount: float, limit: Any, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_allocation(allocation, amount, limit)


@pytest.mark.parametrize(("fractions", "found"), [({"a": 0.5}, "none"), ({"a": 0.5, "b": 1.0}, "1.0")])
def test_a_function_has_to_return_a_fraction_of_each_layer(fractions: dict[str, float], found: str) -> None:
    with pytest.raises(InputError, match=f"for `b` from `allocation`, but got {found}"):
        allocate(lambda shapes, amount: fractions, {"a": (2, 2), "b": (3,)}, 0.5)
