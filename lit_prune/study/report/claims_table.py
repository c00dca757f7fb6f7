"""What was claimed, what was measured, and what follows."""

from collections.abc import Iterable

from lit_prune.study.measures import QUANTITIES, Quantity, estimate_text
from lit_prune.study.plan.claims import Contrast
from lit_prune.study.report.markdown import table
from lit_prune.study.results.results import seeds_text
from lit_prune.study.results.verdicts import OPEN, Finding, Judgement

__all__ = ["claims_table"]


def claims_table(judgements: Iterable[Judgement]) -> str:
    """Lay out a row for each contrast; the first of a claim carries its words and its verdict."""
    rows = []
    for judgement in judgements:
        verdict = f"**{judgement.verdict}**" + (f": {judgement.note}" if judgement.note else "")
        for index, finding in enumerate(judgement.findings):
            first = [judgement.claim.said, verdict] if index == 0 else ["", ""]
            own = "not decidable" if finding.verdict == OPEN else finding.verdict
            own += f": {finding.note}" if finding.note else ""
            rows.append([*first, contrast_text(finding.contrast), measured(finding), limits(finding.contrast), own])
    header = ["claim", "verdict", "contrast", "measured", "holds if", "this contrast"]
    return table(header, rows, left=len(header)) if rows else ""


def contrast_text(contrast: Contrast) -> str:
    """Say what is compared."""
    of = QUANTITIES[contrast.measure].label
    other = QUANTITIES[contrast.minus_measure or contrast.measure].label
    if contrast.minus is not None and other == of:
        return f"{of}: {contrast.of} less {contrast.minus}"
    if contrast.minus is not None:
        return f"{of} of {contrast.of} less {other} of {contrast.minus}"
    if contrast.minus_measure is not None:
        return f"{contrast.of}: {of} less {other}"
    return f"{contrast.of}: {of}"


def measured(finding: Finding) -> str:
    """Write the interval of the mean or, of an exact contrast, each seed's value."""
    quantity, unit = _quantity(finding.contrast)
    if not finding.values or finding.estimate is None:
        return "-"
    if finding.contrast.exact:
        each = ", ".join(f"{value * quantity.scale:.4g}" for value in finding.values.values())
        return f"{each} {unit} ({seeds_text(finding.values)})"
    text = f"{estimate_text(quantity, finding.estimate)} {unit}"
    return text if finding.estimate.n > 1 else f"{text} ({seeds_text(finding.values)})"


def limits(contrast: Contrast) -> str:
    """Say between which limits a contrast has to lie."""
    quantity, unit = _quantity(contrast)
    low, high = (None if limit is None else f"{limit * quantity.scale:g}" for limit in contrast.between)
    who = "each seed" if contrast.exact else "interval"
    if low is None or high is None:
        return f"{who} at most {high} {unit}" if low is None else f"{who} at least {low} {unit}"
    return f"{who} exactly {low} {unit}" if low == high else f"{who} within {low} to {high} {unit}"


def _quantity(contrast: Contrast) -> tuple[Quantity, str]:
    quantity = QUANTITIES[contrast.measure]
    difference = contrast.minus is not None or contrast.minus_measure is not None
    return quantity, "points" if quantity.unit == "%" and difference else quantity.unit
