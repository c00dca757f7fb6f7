"""Figures of the accuracy of experiments that do not train, and of their parents for comparison."""

from collections.abc import Iterator, Sequence

from matplotlib.lines import Line2D

from lit_prune.cli.figures import BLACK, BLUE, GREY, LINES, legend_below, make_panels, new_figure
from lit_prune.study.plan.plan import Experiment
from lit_prune.study.report.figures.drawing import WIDTH, Drawing
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import accuracy_measure, baseline_values
from lit_prune.study.statistics import estimate


def score_figures(results: Results) -> Iterator[Drawing]:
    """Draw a figure for each group with experiments that do not train.

    Yields:
        Figures with a row per experiment: mean accuracy, its interval, and the value of each seed. Vertical lines show
        the mean accuracy of parents.
    """
    measure = accuracy_measure(results)
    for group, experiments in results.groups().items():
        scored = [experiment for experiment in experiments if not experiment.train]
        if measure and any(results.values(experiment.name, measure) for experiment in scored):
            yield _figure(results, group, scored, measure)


def _figure(results: Results, group: str, experiments: Sequence[Experiment], measure: str) -> Drawing:
    title = results.plan.groups.get(group, group)
    names = [experiment.name for experiment in experiments]
    # the network before pruning, of the last or of the best epoch of the parent
    before = {f"{e.parent}{', best epoch' * (e.checkpoint == 'best')}": e for e in experiments if e.parent}
    parents = {name: found for name, e in sorted(before.items()) if (found := baseline_values(results, e, measure))}
    canvas = new_figure(WIDTH, 1.2 + 0.34 * len(names) + 0.18 * (len(parents) // 2 + 1), title)
    (axes,) = make_panels(canvas, 1, 1)
    for row, name in enumerate(names):
        values = [100 * value for value in results.values(name, measure).values()]
        if (mean := estimate(values)) is None:
            missing = results.diverged(name) or "no result"
            axes.text(0.01, row, missing, va="center", transform=axes.get_yaxis_transform())
            continue
        if len(values) > 1:
            axes.plot(values, [row] * len(values), ls="", marker="|", ms=11, color=GREY)
        if mean.low is not None and mean.high is not None:
            axes.plot([mean.low, mean.high], [row, row], color=BLUE, lw=1.6, solid_capstyle="butt")
        axes.plot([mean.mean], [row], ls="", marker="o", ms=6, color=BLUE, label=name)
    several = any(len(results.values(name, measure)) > 1 for name in names)
    if several:
        handles = [Line2D([], [], color=BLUE, marker="o", ms=6, lw=1.6, label="mean and 95% interval over seeds")]
        handles.append(Line2D([], [], color=GREY, marker="|", ms=11, ls="", label="one seed"))
    else:
        handles = [Line2D([], [], color=BLUE, marker="o", ms=6, ls="", label="one seed")]
    for number, parent in enumerate(parents, start=1):
        if (mean := estimate(parents[parent].values())) is not None:
            style = LINES[number % len(LINES)]
            handles.append(
                axes.axvline(100 * mean.mean, color=BLACK, lw=1.1, ls=style, label=parent + ", mean" * several)
            )
    labels = [name.removeprefix(f"{group}/") for name in names]
    axes.set(yticks=range(len(names)), yticklabels=labels, ylim=(len(names) - 0.5, -0.5))
    axes.set_xlabel(f"{'test' if 'test' in measure else 'validation'} accuracy (%)")
    axes.margins(x=0.08)
    axes.grid(visible=True, axis="x")
    legend_below(canvas, handles, 3)
    caption = (
        "Accuracy of networks that were pruned but not trained afterwards. Vertical line: the network before pruning"
        + (", mean over seeds." if several else ".")
    )
    return Drawing(f"scores-{group}", f"{title}: accuracy", caption, group, canvas)
