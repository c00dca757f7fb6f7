"""The report's table of claims, with the measured values and the verdicts."""

from collections.abc import Iterable

from lit_prune.study.measures import MEASURES, Measure, format_estimate
from lit_prune.study.plan.claims import Contrast
from lit_prune.study.report.tables import markdown_table
from lit_prune.study.results.results import format_seeds
from lit_prune.study.results.verdicts import Finding, Judgement


def claims_table(judgements: Iterable[Judgement]) -> str:
    """Return a Markdown table with a row per contrast. The first row of a claim also has the claim and its verdict."""
    rows = []
    for judgement in judgements:
        verdict = f"**{judgement.verdict}**" + (f": {judgement.note}" if judgement.note else "")
        for index, finding in enumerate(judgement.findings):
            claim = [judgement.claim.said, verdict] if index == 0 else ["", ""]
            own = finding.verdict + (f": {finding.note}" if finding.note else "")
            contrast = finding.contrast
            rows.append([*claim, describe_contrast(contrast), _measured(finding), describe_limits(contrast), own])
    header = ["claim", "verdict", "contrast", "measured", "holds if", "this contrast"]
    return markdown_table(header, rows, left=len(header)) if rows else ""


def describe_contrast(contrast: Contrast) -> str:
    """Describe the measure or difference of a contrast in words."""
    of = MEASURES[contrast.measure].label
    other = MEASURES[contrast.minus_measure or contrast.measure].label
    if contrast.minus is not None and other == of:
        return f"{of}: {contrast.of} minus {contrast.minus}"
    if contrast.minus is not None:
        return f"{of} of {contrast.of} minus {other} of {contrast.minus}"
    return f"{contrast.of}: {of}" + (f" minus {other}" if contrast.minus_measure is not None else "")


def describe_limits(contrast: Contrast) -> str:
    """Describe the limits of a contrast in words, such as "interval at least -1 points"."""
    measure, unit = _unit(contrast)
    low, high = (None if limit is None else f"{limit * measure.scale:g}" for limit in contrast.between)
    who = "each seed" if contrast.exact else "interval"
    if low is None or high is None:
        return f"{who} at most {high} {unit}" if low is None else f"{who} at least {low} {unit}"
    return f"{who} exactly {low} {unit}" if low == high else f"{who} within {low} to {high} {unit}"


def _measured(finding: Finding) -> str:
    """Format the mean with its interval or, for an exact contrast, the value of each seed."""
    measure, unit = _unit(finding.contrast)
    if not finding.values or finding.estimate is None:
        return "-"
    if finding.contrast.exact:
        each = ", ".join(f"{value * measure.scale:.4g}" for value in finding.values.values())
        return f"{each} {unit} ({format_seeds(finding.values)})"
    text = f"{format_estimate(measure, finding.estimate)} {unit}"
    return text if finding.estimate.n > 1 else f"{text} ({format_seeds(finding.values)})"


def _unit(contrast: Contrast) -> tuple[Measure, str]:
    measure = MEASURES[contrast.measure]
    difference = contrast.minus is not None or contrast.minus_measure is not None
    return measure, "points" if measure.unit == "%" and difference else measure.unit
