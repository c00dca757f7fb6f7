"""Verdicts on claims."""

from dataclasses import replace

import numpy as np
import pytest

from lit_prune.study.plan.claims import Claim, Contrast
from lit_prune.study.plan.validation import read_plan
from lit_prune.study.results.results import Results, Run
from lit_prune.study.results.verdicts import FAILS, HOLDS, INCONCLUSIVE, judge

NAMES = ("a", "b")


def results_of(folder, values, seeds=(0, 1, 2), weights="random", **statuses) -> Results:
    """Make complete runs with values by experiment and measure; `a1="diverged"` sets the status of a, seed 1."""
    plan = read_plan({"experiments": [{"name": name} for name in NAMES], "seeds": list(seeds)}, "a test")
    runs = []
    for name in NAMES:
        for index, seed in enumerate(seeds):
            found = {measure: numbers[index] for measure, numbers in values.get(name, {}).items()}
            status = statuses.get(f"{name}{seed}", "complete")
            initial = None if status == "missing" else weights
            runs.append(Run(name, seed, folder, status, measures=found, initial_weights=initial))
    return Results(folder, plan, tuple(runs))


def contrast(**keys) -> Contrast:
    return Contrast(**({"of": "a", "measure": "best_val_acc", "minus": "b"} | keys))


def verdict(results, *contrasts, pretrained=False):
    judgement = judge(Claim("said", contrasts, pretrained), results)
    return judgement.verdict, [finding.verdict for finding in judgement.findings]


# differences 0.1, 0.2, 0.3, although neither side is sorted: mean 0.2, interval 0.2 +- 0.2484
PAIRED = {"a": {"best_val_acc": (0.5, 0.9, 0.7)}, "b": {"best_val_acc": (0.4, 0.7, 0.4)}}


def test_a_difference_is_paired_by_seed(tmp_path):
    judgement = judge(Claim("said", (contrast(between=(0, None)),)), results_of(tmp_path, PAIRED))
    (finding,) = judgement.findings
    assert dict(finding.values) == pytest.approx({0: 0.1, 1: 0.2, 2: 0.3})
    assert finding.estimate is not None
    assert finding.estimate.mean == pytest.approx(0.2)
    assert finding.estimate.half_width == pytest.approx(0.24841, abs=1e-5)


@pytest.mark.parametrize(
    ("between", "expected"),
    [
        ((-0.05, 0.45), HOLDS),
        ((None, 0.45), HOLDS),
        ((-0.05, None), HOLDS),
        ((0.45, None), FAILS),
        ((None, -0.05), FAILS),
        ((0.45, 0.5), FAILS),
        ((0.0, None), INCONCLUSIVE),
        ((None, 0.4), INCONCLUSIVE),
        ((0.19, 0.21), INCONCLUSIVE),  # the mean is within, the interval is not
        ((0.3, 0.9), INCONCLUSIVE),  # the mean is outside, the interval overlaps
    ],
)
def test_the_interval_decides(tmp_path, between, expected):
    judgement = judge(Claim("said", (contrast(between=between),)), results_of(tmp_path, PAIRED))
    assert judgement.verdict == expected
    assert [finding.verdict for finding in judgement.findings] == [expected]
    note = "the interval crosses a limit" if expected == INCONCLUSIVE else ""
    assert judgement.findings[0].note == note


def test_limits_are_included(tmp_path):
    same = {"a": {"best_val_acc": (0.5,) * 3}}
    for between, expected in (((0.5, 0.5), HOLDS), ((None, 0.5), HOLDS), ((0.5, None), HOLDS), ((0.51, 1), FAILS)):
        assert verdict(results_of(tmp_path, same), contrast(minus=None, between=between))[0] == expected


@pytest.mark.parametrize("exact", [False, True])
def test_rounding_to_float32_does_not_cross_a_limit(tmp_path, exact):
    """Accuracies of exactly 82 and 81% are stored as float32, a little below or above."""
    stored = {name: {"best_val_acc": (float(np.float32(value)),) * 3} for name, value in (("a", 0.82), ("b", 0.81))}
    results = results_of(tmp_path, stored)
    for minus, limit in ((None, 0.82), ("b", 0.01)):
        for between in ((limit, None), (None, limit), (limit, limit)):
            assert verdict(results, contrast(minus=minus, between=between, exact=exact))[0] == HOLDS
        for between in ((limit + 1e-6, None), (None, limit - 1e-6)):
            assert verdict(results, contrast(minus=minus, between=between, exact=exact))[0] == FAILS


def test_an_exact_contrast_judges_each_seed(tmp_path):
    values = {"a": {"sparsity_range": (0.0, 0.0, 1e-9)}}
    look = {"minus": None, "measure": "sparsity_range", "exact": True}
    assert verdict(results_of(tmp_path, values), contrast(**look, between=(0, 1e-9)))[0] == HOLDS
    assert verdict(results_of(tmp_path, values), contrast(**look, between=(0, 0)))[0] == FAILS


def test_an_exact_contrast_needs_no_interval(tmp_path):
    values = {"a": {"sparsity_range": (0.0,)}}
    exact = contrast(minus=None, measure="sparsity_range", exact=True, between=(0, 0))
    assert verdict(results_of(tmp_path, values, seeds=(7,)), exact)[0] == HOLDS


def test_one_seed_is_inconclusive_without_exact(tmp_path):
    results = results_of(tmp_path, {"a": {"best_val_acc": (0.9,)}, "b": {"best_val_acc": (0.1,)}}, seeds=(7,))
    judgement = judge(Claim("said", (contrast(between=(0, 1)),)), results)
    assert judgement.verdict == INCONCLUSIVE
    assert judgement.findings[0].note == "one seed gives no confidence interval"
    assert judgement.findings[0].values == {7: 0.8}


def test_another_measure_can_be_subtracted(tmp_path):
    values = {"a": {"sparsity_start": (0.3, 0.3, 0.3), "sparsity_end": (0.1, 0.1, 0.1)}}
    look = contrast(measure="sparsity_start", minus=None, minus_measure="sparsity_end", between=(0.15, 0.25))
    judgement = judge(Claim("said", (look,)), results_of(tmp_path, values))
    assert judgement.verdict == HOLDS
    assert dict(judgement.findings[0].values) == pytest.approx(dict.fromkeys(range(3), 0.2))


@pytest.mark.parametrize("status", ["missing", "unfinished", "failed"])
@pytest.mark.parametrize("name", NAMES)
def test_an_incomplete_run_is_inconclusive(tmp_path, status, name):
    steady = {"a": {"best_val_acc": (0.5, 0.5, 0.5)}, "b": {"best_val_acc": (0.5, 0.5, 0.5)}}
    near = contrast(between=(-0.1, 0.1))
    assert verdict(results_of(tmp_path, steady), near)[0] == HOLDS
    judgement = judge(Claim("said", (near,)), results_of(tmp_path, steady, **{f"{name}1": status}))
    assert judgement.verdict == INCONCLUSIVE
    assert set(judgement.findings[0].values) == {0, 2}
    assert judgement.findings[0].note == f"{name} is not complete with seed 1"


@pytest.mark.parametrize("name", NAMES)
def test_a_diverged_run_is_inconclusive(tmp_path, name):
    judgement = judge(
        Claim("said", (contrast(between=(None, 9)),)), results_of(tmp_path, PAIRED, **{f"{name}2": "diverged"})
    )
    assert judgement.verdict == INCONCLUSIVE
    assert judgement.findings[0].estimate is None
    assert judgement.findings[0].note == f"{name} diverged with seed 2"


def test_one_seed_outside_the_limits_fails_even_if_others_are_missing(tmp_path):
    values = {"a": {"sparsity_range": (0.0, 0.2, 0.0)}}
    exact = contrast(minus=None, measure="sparsity_range", exact=True, between=(0, 0))
    assert verdict(results_of(tmp_path, values, a2="missing"), exact)[0] == FAILS
    assert (
        verdict(results_of(tmp_path, values, a1="missing"), exact)[0] == INCONCLUSIVE
    )  # the others are within the limits
    assert verdict(results_of(tmp_path, values, a1="diverged"), exact)[0] == INCONCLUSIVE


def test_an_absent_measure_is_inconclusive(tmp_path):
    judgement = judge(Claim("said", (contrast(measure="untouched", between=(0, 1)),)), results_of(tmp_path, PAIRED))
    assert judgement.verdict == INCONCLUSIVE
    assert judgement.findings[0].note == "no value for seeds 0, 1, 2"


def test_a_claim_needs_all_of_its_contrasts(tmp_path):
    results = results_of(tmp_path, PAIRED)
    good, bad, unclear = (contrast(between=between) for between in ((-1, 1), (0.6, 1), (0, 1)))
    assert verdict(results, good, good) == (HOLDS, [HOLDS, HOLDS])
    assert verdict(results, good, bad) == (FAILS, [HOLDS, FAILS])
    assert verdict(results, good, unclear) == (INCONCLUSIVE, [HOLDS, INCONCLUSIVE])
    assert verdict(results, unclear, bad) == (FAILS, [INCONCLUSIVE, FAILS])


@pytest.mark.parametrize(("weights", "decided"), [("random", False), ("IMAGENET1K_V1", True), ("weights.pt", True)])
def test_random_weights_say_nothing_about_pretrained_ones(tmp_path, weights, decided):
    results = results_of(tmp_path, PAIRED, weights=weights)
    for between, expected in (((-1, 1), HOLDS), ((0.6, 1), FAILS)):
        claim = Claim("said", (contrast(between=between),), pretrained=True)
        judgement = judge(claim, results)
        assert judgement.verdict == (expected if decided else INCONCLUSIVE)
        assert judgement.findings[0].verdict == expected
        assert ("random" in judgement.note) is not decided
        assert judge(replace(claim, pretrained=False), results).verdict == expected
