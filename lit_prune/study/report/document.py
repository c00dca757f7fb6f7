"""The Markdown document of a report."""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING
from urllib.parse import quote

from lit_prune.study.report.claims_table import claims_table
from lit_prune.study.report.original import compare_with_original
from lit_prune.study.report.overview import list_incomplete_runs, overview
from lit_prune.study.report.summary import summary
from lit_prune.study.report.tables import experiments_with_removal, group_tables, plateau_table
from lit_prune.study.report.undecided import advise, undecided_section
from lit_prune.study.results.results import Results
from lit_prune.study.results.verdicts import Judgement

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

_INTERVAL = (
    "Numbers are means over seeds ± half the width of the 95% confidence interval (Student's t distribution), which "
    "covers other random seeds, but not other images or other initial weights from a file. "
    "Accuracies and sparsities are percentages."
)
_ONE_SEED = "One seed gives no interval. Accuracies and sparsities are percentages."
_CLAIMS = (
    "A claim is tested by contrasts: measures, or differences of two measures with the same seed, for which the plan "
    "sets limits. A contrast holds if its 95% confidence interval lies within the limits, does not hold if the "
    "interval and the limits do not overlap, and is inconclusive otherwise. If the limits are for each seed, the "
    "contrast holds if all values are within the limits, and does not hold if any value is outside. The unit "
    '"points" means percentage points.'
)
_POWER = (
    "A contrast can only be decided if its mean is at least half the width of the interval, the number after ±, away "
    "from the limits. If values vary between seeds as they do here, the interval over five seeds is half as wide as "
    "that over three. This is rough: three seeds hardly show how much values vary."
)
_PLATEAU = (
    "Pruned weights are zero. After their masks are removed, only a gradient can change them, and some weights never "
    "receive one: in a ResNet-18 for images of 32x32 pixels, weights of the last convolutions, at kernel positions "
    "that only ever see padding. So sparsity falls until the only zeros are pruned weights that never received a "
    'gradient ("pruned and untouched"). If all runs of an experiment reach this point, the last two columns are zero.'
)


def report_text(whole: Results, judgements: Sequence[Judgement], figures: Sequence["Figure"], notes: str = "") -> str:
    """Return a report in Markdown that embeds the given figures, from the folder `figures` next to the report.

    Args:
        whole: Results of the study; only experiments that have started get a section.
        judgements: Judgements of the claims about the started experiments.
        figures: Figures of the started experiments.
        notes: Markdown that follows the summary, from the author of the study.
    """
    results = whole.started()
    plan = results.plan
    parts = [f"# Results of the study `{plan.name}`", overview(whole, results), list_incomplete_runs(whole)]
    advices = advise(results, judgements)
    if not any(run.status in ("complete", "diverged") for run in results.runs):
        parts.append("There are no results yet.")
    else:
        parts.append(_ONE_SEED if len(plan.seeds) == 1 else _INTERVAL)
        if top := summary(results, judgements, advices):
            parts += ["## Summary", *top]
    if notes.strip():
        parts += ["## Notes", notes.strip()]
    groups = results.groups()
    for name, experiments in groups.items():
        parts.append(f"## {plan.groups.get(name, name)}")
        parts += group_tables(results, experiments) or ["No run has finished yet."]
        parts += _show(figure for figure in figures if figure.group == name)
    if judgements:
        power = "" if len(plan.seeds) == 1 else _POWER
        parts += ["## Claims", _CLAIMS, power, claims_table(judgements), *undecided_section(advices)]
    if original := compare_with_original(results):
        parts += ["## Next to the original study", *original]
    if experiments_with_removal(plan):
        table = plateau_table(results) or "No run that removes its masks has finished yet."
        parts += ["## Why sparsity stops falling", _PLATEAU, table]
    if rest := [figure for figure in figures if figure.group not in groups]:
        parts += ["## Figures", *_show(rest)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _show(figures: Iterable["Figure"]) -> list[str]:
    return [
        f"{embed_image(figure.title, f'figures/{figure.path.name}')}\n\n*{figure.title}.* {figure.caption}"
        for figure in figures
    ]


def embed_image(alt: str, path: str) -> str:
    """Return Markdown that embeds an image; `path` is relative to the document, with forward slashes."""
    return f"![{' '.join(alt.split()).replace('[', '(').replace(']', ')')}]({quote(path)})"
