"""Claims as data: what is read, and what is refused."""

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
def test_claims_survive_their_own_words(claims):
    assert read_claims([claim.as_dict() for claim in claims], EXPERIMENTS, "p") == tuple(claims)


def test_a_contrast_of_several_experiments_is_one_of_each():
    first, second, third = read({**PLAIN, "of": ["a", "c/d"], "minus": "b", "exact": True}, PLAIN)[0].contrasts
    assert first == Contrast("a", "epochs", "b", None, (0, 1), True)
    assert second == Contrast("c/d", "epochs", "b", None, (0, 1), True)
    assert third == Contrast("a", "epochs", None, None, (0, 1), False)


def test_a_contrast_knows_the_experiments_that_it_needs():
    assert Contrast("a", "epochs").experiments() == {"a"}
    assert Contrast("a", "epochs", "b").experiments() == {"a", "b"}


@pytest.mark.parametrize("limits", [[0, 0], [None, 0.5], [0.5, None], [float("-inf"), 0], (-1, 1)])
def test_limits_may_be_open_or_one_point(limits):
    assert read({**PLAIN, "between": limits})[0].contrasts[0].between == tuple(limits)


def test_a_claim_is_about_any_weights_unless_it_says_so():
    assert read(PLAIN)[0].pretrained is False
    assert read(PLAIN, pretrained=True)[0].pretrained is True


MEASURE = "Expected a measure of the report in the claim 'so', but got `{}`. HINT: " + ", ".join(MEASURES) + "."
NAME = "Expected the claim 'so' to be about experiments of the plan, but got `{}`. HINT: check the name."
CONTRAST = "Expected contrasts with `of`, `measure` and `between` in the claim 'so', but got {}. HINT: check the keys."
BETWEEN = "Expected `between` with two limits in the claim 'so', but got {}. HINT: write [low, high], null for none."
TURNED = "Expected `between` with the lower limit first in the claim 'so', but got {}. HINT: turn them round."
SWITCH = "Expected `{}` in the claim 'so' to be true or false, but got {}. HINT: choose one of these."
CONTRAST_KEYS = "of, measure, minus, minus_measure, between, exact"


@pytest.mark.parametrize(
    ("contrast", "sentence"),
    [
        ("a", CONTRAST.format("a")),
        ({"measure": "epochs"}, CONTRAST.format("{'measure': 'epochs'}")),
        ({**PLAIN, "of": []}, CONTRAST.format("{'of': [], 'measure': 'epochs', 'between': [0, 1]}")),
        ({**PLAIN, "off": 1}, f"Expected the keys {CONTRAST_KEYS} in the claim 'so', but got `off`. HINT: check the spelling."),
        ({**PLAIN, "of": "x"}, NAME.format("x")),
        ({**PLAIN, "of": ["a", "x"]}, NAME.format("x")),
        ({**PLAIN, "of": ["a", ["b"]]}, NAME.format("['b']")),
        ({**PLAIN, "minus": "x"}, NAME.format("x")),
        ({**PLAIN, "measure": "accuracy"}, MEASURE.format("accuracy")),
        ({**PLAIN, "measure": ["epochs"]}, MEASURE.format("['epochs']")),
        ({"of": "a", "between": [0, 1]}, MEASURE.format("None")),
        ({**PLAIN, "minus_measure": "accuracy"}, MEASURE.format("accuracy")),
        ({"of": "a", "measure": "epochs"}, BETWEEN.format("None")),
        ({**PLAIN, "between": 3}, BETWEEN.format("3")),
        ({**PLAIN, "between": [1]}, BETWEEN.format("[1]")),
        ({**PLAIN, "between": [0, 1, 2]}, BETWEEN.format("[0, 1, 2]")),
        ({**PLAIN, "between": ["0", 1]}, BETWEEN.format("['0', 1]")),
        ({**PLAIN, "between": [None, None]}, BETWEEN.format("[None, None]")),
        ({**PLAIN, "between": (None, None)}, BETWEEN.format("(None, None)")),
        ({**PLAIN, "between": [float("nan"), 1]}, BETWEEN.format("[nan, 1]")),
        ({**PLAIN, "between": [0, float("nan")]}, BETWEEN.format("[0, nan]")),
        ({**PLAIN, "between": [1, 0]}, TURNED.format("[1, 0]")),
        ({**PLAIN, "exact": "no"}, SWITCH.format("exact", "no")),
    ],
)  # fmt: skip
def test_a_bad_contrast_is_one_sentence(contrast, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        read(PLAIN, contrast)


CLAIM = "Expected claims with `said` and `contrasts` in `p`, but got {}. HINT: see the plans that ship."


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        ("so", CLAIM.format("so")),
        ({"contrasts": [PLAIN]}, CLAIM.format({"contrasts": [PLAIN]})),
        ({"said": 3, "contrasts": [PLAIN]}, CLAIM.format({"said": 3, "contrasts": [PLAIN]})),
        ({"said": "so"}, CLAIM.format({"said": "so"})),
        ({"said": "so", "contrasts": []}, CLAIM.format({"said": "so", "contrasts": []})),
        ({"said": "so", "contrasts": 5}, CLAIM.format({"said": "so", "contrasts": 5})),
        ({"said": "so", "contrasts": PLAIN}, CLAIM.format({"said": "so", "contrasts": PLAIN})),
        ({"said": "so", "contrasts": [PLAIN], "pretrained": "no"}, SWITCH.format("pretrained", "no")),
        ({"said": "so", "contrasts": [PLAIN], "who": "me"}, "Expected the keys said, contrasts, pretrained in the claim 'so', but got `who`. HINT: check the spelling."),
    ],
)  # fmt: skip
def test_a_bad_claim_is_one_sentence(claim, sentence):
    fine = {"said": "fine", "contrasts": [PLAIN]}
    assert len(read_claims([fine], EXPERIMENTS, "p")) == 1
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        read_claims([fine, claim], EXPERIMENTS, "p")
