"""Decide whether the claims of a study hold; the docstring of `judge` states the rules."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_prune.study.plan.claims import Claim, Contrast
from lit_prune.study.results.results import Results, format_seeds
from lit_prune.study.statistics import Estimate, estimate

HOLDS = "holds"
FAILS = "does not hold"
INCONCLUSIVE = "inconclusive"

# runs log float32, so that an accuracy of 82% is stored as 0.81999999; so much rounding does not cross a limit
_ROUNDING = 2e-7


@dataclass(frozen=True)
class Finding:
    """Measurements and verdict for one contrast.

    Attributes:
        contrast: The contrast.
        values: The measure or difference, by seed. A seed is left out if a measure for it is missing.
        estimate: Mean of `values` with its interval; None without values.
        verdict: `HOLDS`, `FAILS` or `INCONCLUSIVE`.
        note: Why the contrast is inconclusive; "" otherwise.
    """

    contrast: Contrast
    values: Mapping[int, float]
    estimate: Estimate | None
    verdict: str
    note: str


@dataclass(frozen=True)
class Judgement:
    """Verdict on a claim.

    Attributes:
        claim: The claim.
        verdict: `HOLDS`, `FAILS` or `INCONCLUSIVE`.
        findings: One finding per contrast.
        note: Why the claim is inconclusive whatever its findings say; "" if the findings decide.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...]
    note: str


def judge(claim: Claim, results: Results) -> Judgement:
    """Decide whether a claim holds.

    A claim holds if all of its contrasts hold, fails if a contrast fails, and is inconclusive otherwise. A claim about
    pre-trained weights is always inconclusive if a run started from random weights.

    A contrast holds if the 95% confidence interval of its mean lies within the limits, fails if the interval and the
    limits do not overlap, and is inconclusive otherwise; a single seed gives no interval. An exact contrast holds if
    the values of all seeds lie within the limits, and fails if any value lies outside. A contrast with a diverged run
    is inconclusive. So is a contrast with an incomplete run, unless it is exact and the value of a complete run lies
    outside.
    """
    findings = tuple(_find(contrast, results) for contrast in claim.contrasts)
    if claim.pretrained and any(run.initial_weights == "random" for run in results.runs):
        note = "the claim is about pre-trained weights, but these runs started from random weights"
        return Judgement(claim, INCONCLUSIVE, findings, note)
    verdicts = {finding.verdict for finding in findings}
    verdict = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else INCONCLUSIVE
    return Judgement(claim, verdict, findings, "")


def _find(contrast: Contrast, results: Results) -> Finding:
    values = results.values(contrast.of, contrast.measure)
    if contrast.minus is not None or contrast.minus_measure is not None:
        others = results.values(contrast.minus or contrast.of, contrast.minus_measure or contrast.measure)
        values = {seed: value - others[seed] for seed, value in values.items() if seed in others}
    mean = estimate(values.values())
    verdict, note = _decide(contrast, values, mean, _explain_gap(contrast, values, results))
    return Finding(contrast, values, mean, verdict, note)


def _decide(contrast: Contrast, values: Mapping[int, float], mean: Estimate | None, gap: str) -> tuple[str, str]:
    slack = 0.0 if all(limit == 0 for limit in contrast.between) else _ROUNDING  # equal values differ by exactly zero
    low = -math.inf if contrast.between[0] is None else contrast.between[0] - slack
    high = math.inf if contrast.between[1] is None else contrast.between[1] + slack
    if contrast.exact and not all(low <= value <= high for value in values.values()):
        return FAILS, ""  # values of missing seeds could not change this verdict
    if gap or mean is None:
        return INCONCLUSIVE, gap
    if contrast.exact:
        return HOLDS, ""
    if mean.low is None or mean.high is None:
        return INCONCLUSIVE, "one seed gives no confidence interval"
    if low <= mean.low and mean.high <= high:
        return HOLDS, ""
    if mean.high < low or mean.low > high:
        return FAILS, ""
    return INCONCLUSIVE, "the interval crosses a limit"


def _explain_gap(contrast: Contrast, values: Mapping[int, float], results: Results) -> str:
    """Return why a contrast lacks the value of a seed; "" if it has the values of all seeds."""
    names = [name for name in dict.fromkeys((contrast.of, contrast.minus)) if name is not None]
    for name in names:
        if runs := results.with_status(name, "diverged"):
            return f"{name} diverged with {format_seeds(run.seed for run in runs)}"
    for name in names:
        if seeds := [run.seed for run in results.of(name) if run.status != "complete"]:
            return f"{name} is not complete with {format_seeds(seeds)}"
    if seeds := sorted(set(results.plan.seeds) - set(values)):
        return f"no value for {format_seeds(seeds)}"
    return ""
