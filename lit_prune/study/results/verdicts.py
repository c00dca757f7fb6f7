"""Whether a claim holds, by one rule for all claims, from the data alone."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from lit_prune.study.plan.claims import Claim, Contrast
from lit_prune.study.results.results import Results, seeds_text
from lit_prune.study.statistics import Estimate, estimate

__all__ = ["FAILS", "HOLDS", "OPEN", "Finding", "Judgement", "judge"]

HOLDS = "holds"
FAILS = "does not hold"
OPEN = "not decidable with these runs"


@dataclass(frozen=True)
class Finding:
    """What the runs say about one contrast.

    Attributes:
        contrast: The difference in question.
        values: The difference by seed, of the seeds that both sides have.
        estimate: Their mean and interval; None without values.
        verdict: `HOLDS`, `FAILS` or `OPEN`.
        note: Why it is open; "" otherwise.
    """

    contrast: Contrast
    values: Mapping[int, float]
    estimate: Estimate | None
    verdict: str
    note: str


@dataclass(frozen=True)
class Judgement:
    """What the runs say about a claim.

    Attributes:
        claim: What was said.
        verdict: `HOLDS` if all its findings hold, `FAILS` if one does not, `OPEN` otherwise.
        findings: One for each contrast of the claim.
        note: Why the claim is open whatever was found; "" otherwise.
    """

    claim: Claim
    verdict: str
    findings: tuple[Finding, ...]
    note: str


def judge(claim: Claim, results: Results) -> Judgement:
    """Judge a claim.

    A contrast holds if its 95% confidence interval lies within the limits, and does not hold if the two have nothing
    in common. An exact one holds if each seed's value lies within them, and does not hold if one lies outside. All else
    is open, and so is a contrast with runs that are missing: seeds were fixed beforehand, and to judge as
    soon as enough of them agree would be to choose among them. A diverged run leaves it open too, for it has no
    number that could be compared.

    Args:
        claim: What was said.
        results: The runs.
    """
    findings = tuple(_find(contrast, results) for contrast in claim.contrasts)
    verdicts = {finding.verdict for finding in findings}
    if claim.pretrained and any(run.initial_weights == "random" for run in results.runs):
        return Judgement(
            claim, OPEN, findings, "it is about pre-trained weights, and these runs began with random ones"
        )
    verdict = FAILS if FAILS in verdicts else HOLDS if verdicts == {HOLDS} else OPEN
    return Judgement(claim, verdict, findings, "")


def _find(contrast: Contrast, results: Results) -> Finding:
    values = results.values(contrast.of, contrast.measure)
    if contrast.minus is not None or contrast.minus_measure is not None:
        others = results.values(contrast.minus or contrast.of, contrast.minus_measure or contrast.measure)
        values = {seed: value - others[seed] for seed, value in values.items() if seed in others}
    mean = estimate(values.values())
    verdict, note = _decide(contrast, values, mean, _gap(contrast, values, results))
    return Finding(contrast, values, mean, verdict, note)


def _decide(contrast: Contrast, values: Mapping[int, float], mean: Estimate | None, gap: str) -> tuple[str, str]:
    low = -math.inf if contrast.between[0] is None else contrast.between[0]
    high = math.inf if contrast.between[1] is None else contrast.between[1]
    if contrast.exact:
        if not all(low <= value <= high for value in values.values()):
            return FAILS, ""  # whatever the other seeds may say
        return (OPEN, gap) if gap else (HOLDS, "")
    if gap or mean is None:
        return OPEN, gap
    if mean.low is None or mean.high is None:
        return OPEN, "one seed gives no interval"
    if low <= mean.low and mean.high <= high:
        return HOLDS, ""
    if mean.high < low or mean.low > high:
        return FAILS, ""
    return OPEN, "the interval lies on both sides of a limit"


def _gap(contrast: Contrast, values: Mapping[int, float], results: Results) -> str:
    """Why a contrast has not a value for each seed, or "" if it has."""
    names = [name for name in dict.fromkeys((contrast.of, contrast.minus)) if name is not None]
    for name in names:
        if runs := results.with_status(name, "diverged"):
            return f"{name} diverged with {seeds_text(run.seed for run in runs)}"
    for name in names:
        if seeds := [run.seed for run in results.of(name) if run.status != "complete"]:
            return f"{name} is not complete with {seeds_text(seeds)}"
    if seeds := sorted(set(results.plan.seeds) - set(values)):
        return f"not measured with {seeds_text(seeds)}"
    return ""
