"""Flattening and merging nested settings, neither of which changes."""

import copy
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_prune.files.nested import flatten, merge

NAMES = st.sampled_from(["a", "b", "c", "class_path", "init_args", "a+", "b+"])
LEAVES = st.none() | st.integers(0, 9) | st.sampled_from(["X", "Y"]) | st.lists(st.integers(0, 9), max_size=2)


def nested(names: st.SearchStrategy[str], leaves: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Draw settings of up to three levels."""
    inner = st.dictionaries(names, leaves | st.dictionaries(names, leaves, max_size=2), max_size=3)
    return st.dictionaries(names, leaves | inner, max_size=3)


SETTINGS = nested(NAMES, LEAVES)
PLAIN = nested(st.sampled_from("abc"), st.integers(0, 9))  # a text may be the name of a class
# the first draw takes seconds on a busy machine
patient = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(SETTINGS, SETTINGS)
def test_the_arguments_are_never_changed(base, changes):
    before = copy.deepcopy((base, changes))
    result = merge(base, changes)
    assert (base, changes) == before
    spoil(result)
    assert (base, changes) == before


def spoil(content: dict[str, Any]) -> None:
    """Change every nested mapping."""
    for value in list(content.values()):
        if isinstance(value, dict):
            spoil(value)
    content["spoiled"] = True


@patient
@given(SETTINGS, SETTINGS)
def test_no_key_that_ends_in_plus_is_left(base, changes):
    assert not any("+" in name for name in names(merge(base, changes)))


def names(content: dict[str, Any]) -> list[str]:
    inner = [name for value in content.values() if isinstance(value, dict) for name in names(value)]
    return [*content, *inner]


@patient
@given(PLAIN, PLAIN)
def test_all_changes_are_there_and_all_else_is_kept(base, changes):
    result = flatten(merge(base, changes))
    assert flatten(changes).items() <= result.items()
    assert result.keys() <= flatten(base).keys() | flatten(changes).keys()
    assert merge(base, {}) == merge({}, base) == merge(base, base) == base


@pytest.mark.parametrize(
    ("base", "changes", "result"),
    [
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": {"b": 1}}, {"a": 5}, {"a": 5}),
        ({"a": {"b": 1}}, {"a": None}, {"a": None}),
        ({"a": 5}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
    ],
)
def test_mappings_are_merged_and_other_values_are_replaced(base, changes, result):
    assert merge(base, changes) == result


@pytest.mark.parametrize(
    ("base", "changes", "result"),
    [
        ({"a": [1]}, {"a+": [2, 3]}, [1, 2, 3]),
        ({"a": [1]}, {"a+": 2}, [1, 2]),
        ({"a": "X"}, {"a+": ["Y"]}, ["X", "Y"]),
        ({"a": {"class_path": "X"}}, {"a+": {"class_path": "Y"}}, [{"class_path": "X"}, {"class_path": "Y"}]),
        ({"a": None}, {"a+": [1]}, [1]),
        ({}, {"a+": [1]}, [1]),
        ({"a+": [1]}, {"a+": [2]}, [1, 2]),
        ({"a+": [1]}, {"a": [2]}, [2]),
    ],
)
def test_a_plus_appends_to_the_list(base, changes, result):
    assert merge(base, changes) == {"a": result}
    assert merge({"deep": base}, {"deep": changes}) == {"deep": {"a": result}}


ADAM = {"class_path": "Adam", "init_args": {"lr": 0.1, "fused": True}}


@pytest.mark.parametrize(
    ("changes", "result"),
    [
        ({"class_path": "SGD"}, {"class_path": "SGD"}),
        ({"class_path": "Adam", "init_args": {"lr": 1}}, {"class_path": "Adam", "init_args": {"lr": 1, "fused": True}}),
        ({"init_args": {"lr": 1}}, {"class_path": "Adam", "init_args": {"lr": 1, "fused": True}}),
        ({"lr": 1}, {"class_path": "Adam", "init_args": {"lr": 1, "fused": True}}),
        ({}, ADAM),
        ("SGD", "SGD"),
    ],
)
def test_arguments_stay_with_their_class(changes, result):
    assert merge({"optimizer": ADAM}, {"optimizer": changes}) == {"optimizer": result}


@pytest.mark.parametrize("changes", [{"lr": 1}, {"init_args": {"lr": 1}}])
def test_a_class_given_by_its_name_alone_takes_arguments(changes):
    assert merge({"optimizer": "SGD"}, {"optimizer": changes}) == {
        "optimizer": {"class_path": "SGD", "init_args": {"lr": 1}}
    }


def test_settings_without_a_class_are_not_given_to_one():
    assert merge({"model": {"output": "logits"}}, {"model": {"class_path": "X"}}) == {"model": {"class_path": "X"}}
