"""Accuracy of experiments that are scored without training, beside that of the experiments they started from."""

from collections.abc import Iterator, Sequence

from matplotlib.lines import Line2D

from lit_prune.study.plan.plan import Experiment
from lit_prune.study.report.figures.curves import groups
from lit_prune.study.report.figures.style import (
    BLACK,
    BLUE,
    GREY,
    LINES,
    Drawing,
    legend,
    new_canvas,
    panel,
    text_width,
)
from lit_prune.study.results.curves import diverged_label
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import accuracy_measure
from lit_prune.study.statistics import estimate

__all__ = ["score_figures"]


def score_figures(results: Results) -> Iterator[Drawing]:
    """Draw a figure for each group with experiments that do not train.

    Args:
        results: A study.

    Yields:
        Figures with a row an experiment: accuracy, its interval over seeds, each seed, and the parent's as a line.
    """
    measure = accuracy_measure(results)
    for group, experiments in groups(results).items():
        scored = [experiment for experiment in experiments if not experiment.train]
        if measure and any(results.values(experiment.name, measure) for experiment in scored):
            yield _figure(results, group, scored, measure)


def _figure(results: Results, group: str, experiments: Sequence[Experiment], measure: str) -> Drawing:
    title = results.plan.groups.get(group, group)
    names = [experiment.name for experiment in experiments]
    labels = [name.removeprefix(f"{group}/") for name in names]
    left = 0.3 + text_width(labels)
    parents = sorted({e.parent for e in experiments if e.parent and results.values(e.parent, measure)})
    rows = 0.34 * len(names) + 0.1
    head = 0.55 + 0.18 * (len(parents) + 1)
    canvas = new_canvas(8.0, head + rows + 0.5, title)
    axes = panel(canvas, left, head, 8.0 - left - 0.3, rows)
    for row, name in enumerate(names):
        values = [100 * value for value in results.values(name, measure).values()]
        if (mean := estimate(values)) is None:
            said = diverged_label(results, name) or "no result"
            axes.text(0.01, row, said, va="center", transform=axes.get_yaxis_transform())
            continue
        if len(values) > 1:
            axes.plot(values, [row] * len(values), ls="", marker="|", ms=11, color=GREY)
        if mean.low is not None and mean.high is not None:
            axes.plot([mean.low, mean.high], [row, row], color=BLUE, lw=1.6, solid_capstyle="butt")
        axes.plot([mean.mean], [row], ls="", marker="o", ms=6, color=BLUE, label=name)
    handles = [Line2D([], [], color=BLUE, marker="o", ms=6, lw=1.6, label="accuracy, 95% interval over seeds")]
    handles.append(Line2D([], [], color=GREY, marker="|", ms=11, ls="", label="one seed"))
    for line, parent in zip(range(1, len(parents) + 1), parents, strict=True):
        mean = estimate(results.values(parent, measure).values())
        if mean is not None:
            handles.append(
                axes.axvline(100 * mean.mean, color=BLACK, lw=1.1, ls=LINES[line % len(LINES)], label=f"{parent}, mean")
            )
    axes.set(yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel(f"{'test' if 'test' in measure else 'validation'} accuracy (%)")
    axes.margins(x=0.08)
    axes.grid(True, axis="x")
    legend(canvas, handles, 0.36, 2)
    caption = (
        "Accuracy of models that were pruned and scored without one step of training. Dashed: the model that they "
        "were before, mean over seeds."
    )
    return Drawing(f"scores-{group}", f"{title}: accuracy", caption, group, canvas)
