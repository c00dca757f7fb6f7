"""The document that a report is."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from lit_prune.study.report.claims_table import claims_table
from lit_prune.study.report.markdown import image
from lit_prune.study.report.summary import overview, runs_left
from lit_prune.study.report.tables import group_tables, groups, plateau_table, unfrozen
from lit_prune.study.results.results import Results
from lit_prune.study.results.verdicts import Judgement

__all__ = ["Drawn", "report_text"]

_INTERVAL = (
    "Numbers are means over seeds ± half of the 95% confidence interval, by the t distribution. Accuracies and "
    "sparsities are in per cent."
)
_ONE_SEED = "One seed gives no interval, so none is given. Accuracies and sparsities are in per cent."
_CLAIMS = (
    "Differences are taken seed by seed; points are percentage points. A contrast holds if its 95% interval lies "
    "within the limits, does not hold if the two have nothing in common, and cannot be decided otherwise; where each "
    "seed is to keep the limits, one that does not is enough. The limits stand in the plan; verdicts are computed."
)
_PLATEAU = (
    "A weight that was pruned is zero, and once its mask has been taken away, only a gradient can move it. Some "
    "weights never receive one: in a ResNet-18 at 32x32 pixels, those taps of the last convolutions that see nothing "
    "but padding. So sparsity falls only until what is still zero is what was pruned and cannot learn. Where that is "
    "the whole reason, the last two columns are zero."
)


class Drawn(Protocol):
    """A figure that was written."""

    @property
    def path(self) -> Path:
        """Where it is."""

    @property
    def title(self) -> str:
        """What it shows."""

    @property
    def caption(self) -> str:
        """A sentence about it."""

    @property
    def group(self) -> str | None:
        """The group whose tables it belongs to."""


def report_text(results: Results, judgements: Sequence[Judgement], figures: Sequence[Drawn], folder: Path) -> str:
    """Write the report, as Markdown.

    Args:
        results: The runs.
        judgements: What follows about the claims.
        figures: Pictures that have been drawn.
        folder: Where the report will be; pictures are linked from there.
    """
    plan = results.plan
    parts = [f"# Results of the study `{plan.name}`", overview(results), runs_left(results)]
    if not any(run.status in ("complete", "diverged") for run in results.runs):
        parts.append("There are no numbers yet.")
    else:
        parts.append(_ONE_SEED if len(plan.seeds) == 1 else _INTERVAL)
    for name, experiments in groups(plan).items():
        parts.append(f"## {plan.groups.get(name, name)}")
        parts += group_tables(results, experiments) or ["No run of it has ended yet."]
        parts += _shown((figure for figure in figures if figure.group == name), folder)
    if judgements:
        parts += ["## What was claimed", _CLAIMS, claims_table(judgements)]
    if unfrozen(plan):
        parts += ["## Why sparsity stops falling", _PLATEAU, plateau_table(results) or "No such run has ended yet."]
    known = groups(plan)
    if rest := [figure for figure in figures if figure.group not in known]:
        parts += ["## Figures", *_shown(rest, folder)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _shown(figures: Iterable[Drawn], folder: Path) -> list[str]:
    parts = []
    for figure in figures:
        # both made absolute, because either may have been given from where the command runs
        path = Path(os.path.relpath(figure.path.resolve(), folder.resolve())).as_posix()
        parts += [image(figure.title, path), f"*{figure.title}.* {figure.caption}"]
    return parts
