"""Claims as data: reading and refusing."""

# ruff: noqa: E501 - sentences, as a person sees them

import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_prune.errors import InputError
from lit_prune.study.measures import MEASURES
from lit_prune.study.plan.claims import Claim, Contrast, read_claims

EXPERIMENTS = ["a", "b", "c/d"]
PLAIN = {"of": "a", "measure": "epochs", "between": [0, 1]}


def read(*contrasts: Any, **keys: Any) -> tuple[Claim, ...]:
    return read_claims([{"said": "so", "contrasts": list(contrasts), **keys}], EXPERIMENTS, "p")


NUMBERS = st.floats(-9, 9)
LIMITS: st.SearchStrategy[tuple[float | None, float | None]] = st.one_of(
    st.tuples(NUMBERS, NUMBERS).map(lambda pair: (min(pair), max(pair))),
    st.tuples(st.none(), NUMBERS),
    st.tuples(NUMBERS, st.none()),
)
CONTRASTS = st.builds(
    Contrast,
    of=st.sampled_from(EXPERIMENTS),
    measure=st.sampled_from(sorted(MEASURES)),
    minus=st.none() | st.sampled_from(EXPERIMENTS),
    minus_measure=st.none() | st.sampled_from(sorted(MEASURES)),
    between=LIMITS,
    exact=st.booleans(),
)
CLAIMS = st.lists(
    st.builds(Claim, said=st.text(), contrasts=st.lists(CONTRASTS, min_size=1).map(tuple), pretrained=st.booleans())
)


# the first draw takes seconds on a busy machine
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(CLAIMS)
@pytest.mark.gate
def test_claims_survive_a_round_trip(claims):
    assert read_claims([claim.as_dict() for claim in claims], EXPERIMENTS, "p") == tuple(claims)


def test_a_contrast_of_several_experiments_becomes_one_for_each():
    first, second, third = read({**PLAIN, "of": ["a", "c/d"], "minus": "b", "exact": True}, PLAIN)[0].contrasts
    assert first == Contrast("a", "epochs", "b", None, (0, 1), True)
    assert second == Contrast("c/d", "epochs", "b", None, (0, 1), True)
    assert third == Contrast("a", "epochs", None, None, (0, 1), False)


def test_a_contrast_lists_its_experiments():
    assert Contrast("a", "epochs").experiments() == {"a"}
    assert Contrast("a", "epochs", "b").experiments() == {"a", "b"}


@pytest.mark.parametrize("limits", [[0, 0], [None, 0.5], [0.5, None], [float("-inf"), 0], (-1, 1)])
def test_limits_may_be_open_or_equal(limits):
    assert read({**PLAIN, "between": limits})[0].contrasts[0].between == tuple(limits)


def test_a_claim_is_about_any_initial_weights_by_default():
    assert read(PLAIN)[0].pretrained is False
    assert read(PLAIN, pretrained=True)[0].pretrained is True


KEYS = "of, measure, minus, minus_measure, between, exact"
# what a message must name: what was expected, and the value found
MEASURE = "a known measure in the claim 'so'"
NAME = "every experiment in the claim 'so' to be in the plan"
CONTRAST = "each contrast in the claim 'so' to have `of`, `measure` and `between`"
BETWEEN = "`between` with two limits in the claim 'so'"


@pytest.mark.parametrize(
    ("contrast", "wanted", "found"),
    [
        ("a", CONTRAST, "a"),
        ({"measure": "epochs"}, CONTRAST, "{'measure': 'epochs'}"),
        ({**PLAIN, "of": []}, CONTRAST, "{'of': [], 'measure': 'epochs', 'between': [0, 1]}"),
        ({**PLAIN, "off": 1}, f"only the keys {KEYS} in the claim 'so'", "`off`"),
        ({**PLAIN, "of": "x"}, NAME, "`x`"),
        ({**PLAIN, "of": ["a", "x"]}, NAME, "`x`"),
        ({**PLAIN, "of": ["a", ["b"]]}, NAME, "`['b']`"),
        ({**PLAIN, "minus": "x"}, NAME, "`x`"),
        ({**PLAIN, "measure": "accuracy"}, MEASURE, "`accuracy`"),
        ({**PLAIN, "measure": ["epochs"]}, MEASURE, "`['epochs']`"),
        ({"of": "a", "between": [0, 1]}, MEASURE, "`None`"),
        ({**PLAIN, "minus_measure": "accuracy"}, MEASURE, "`accuracy`"),
        ({"of": "a", "measure": "epochs"}, BETWEEN, "None"),
        *(({**PLAIN, "between": limits}, BETWEEN, str(limits)) for limits in (3, [1], [0, 1, 2], ["0", 1], [None, None], (None, None), [float("nan"), 1], [0, float("nan")])),
        ({**PLAIN, "between": [1, 0]}, "`between` with the lower limit first in the claim 'so'", "[1, 0]"),
        ({**PLAIN, "exact": "no"}, "`exact` in the claim 'so' to be true or false", "no"),
    ],
)  # fmt: skip
def test_a_bad_contrast_is_refused_in_one_sentence(contrast, wanted, found):
    with pytest.raises(InputError, match=rf"^Expected {re.escape(wanted)}, but got {re.escape(found)}\. HINT: .+\.$"):
        read(PLAIN, contrast)


CLAIM = "each claim in `p` to have `said` and `contrasts`"


@pytest.mark.parametrize(
    ("claim", "wanted", "found"),
    [
        ("so", CLAIM, "so"),
        *((claim, CLAIM, str(claim)) for claim in (
            {"contrasts": [PLAIN]},
            {"said": 3, "contrasts": [PLAIN]},
            {"said": "so"},
            {"said": "so", "contrasts": []},
            {"said": "so", "contrasts": 5},
            {"said": "so", "contrasts": PLAIN},
        )),
        ({"said": "so", "contrasts": [PLAIN], "pretrained": "no"}, "`pretrained` in the claim 'so' to be true or false", "no"),
        ({"said": "so", "contrasts": [PLAIN], "who": "me"}, "only the keys said, contrasts, pretrained in the claim 'so'", "`who`"),
    ],
)  # fmt: skip
def test_a_bad_claim_is_refused_in_one_sentence(claim, wanted, found):
    fine = {"said": "fine", "contrasts": [PLAIN]}
    assert len(read_claims([fine], EXPERIMENTS, "p")) == 1
    with pytest.raises(InputError, match=rf"^Expected {re.escape(wanted)}, but got {re.escape(found)}\. HINT: .+\.$"):
        read_claims([fine, claim], EXPERIMENTS, "p")
