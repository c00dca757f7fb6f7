"""Figures of loss and accuracy over epochs, one or more per group of experiments."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lit_prune.cli.figures import BLUE, LINES, ORANGE, legend_below, make_panels, new_figure
from lit_prune.study.report.figures.drawing import EPOCHS, MEAN, ONE_SEED, WIDTH, Drawing, scale, show_epoch_numbers
from lit_prune.study.results.results import Results, Run

_HALVES = {"train": ("training", ORANGE, LINES[1]), "val": ("validation", BLUE, LINES[0])}
_KINDS = {"loss": "loss (nats per image)", "acc": "accuracy (%)"}
_MOST = 20  # maximum number of experiments in a figure


def curve_figures(results: Results) -> Iterator[Drawing]:
    """Draw a figure for each group with experiments that train; a large group gets several figures.

    Yields:
        Figures with a panel for loss and one for accuracy per experiment, as far as they were logged. All experiments
        of a figure have the same axes.
    """
    for group, experiments in results.groups().items():
        shown = [e.name for e in experiments if e.train and any(_has_curves(run) for run in results.of(e.name))]
        parts = [shown[start : start + _MOST] for start in range(0, len(shown), _MOST)]
        for number, part in enumerate(parts, start=1):
            yield _figure(results, group, part, f"-{number}" if len(parts) > 1 else "")


def _figure(results: Results, group: str, names: Sequence[str], suffix: str) -> Drawing:
    title = results.plan.groups.get(group, group)
    runs = [run for name in names for run in results.of(name) if _has_curves(run)]
    kinds = [kind for kind in _KINDS if any(run.finite_curve(f"{half}_{kind}") for run in runs for half in _HALVES)]
    across = len(kinds) * (2 if len(names) > 3 else 1)
    count = len(kinds) * len(names)
    canvas = new_figure(WIDTH, 0.95 + math.ceil(count / across) * (1.85 if across == 4 else 2.0), title)
    limits = {kind: _limits(runs, kind) for kind in kinds}
    last = max(run.epochs[-1] for run in runs) + 1
    for index, axes in enumerate(make_panels(canvas, count, across)):
        name, kind = names[index // len(kinds)], kinds[index % len(kinds)]
        _draw(axes, results, name, kind)
        axes.set(ylabel=_KINDS[kind], **limits[kind])
        show_epoch_numbers(axes, last)
        if index + across < count:
            axes.set_xticks([])  # ticks are shown only below the lowest panel of each column
        else:
            axes.set_xlabel(EPOCHS)
        if kind == kinds[0]:
            axes.set_title(_title(results, group, name))
    legend_below(canvas, _handles(runs), 4)
    several = len({run.seed for run in runs}) > 1
    caption = (
        "Training and validation loss and accuracy over epochs, with the same axes for all experiments of this figure. "
        + ("Thin lines are single seeds, thick lines are means over seeds. " if several else "")
        + "Training values are means over an epoch, during which the "
        "network changes; validation values are measured at the end of the epoch."
    )
    return Drawing(f"curves-{group}{suffix}", f"{title}: loss and accuracy over epochs", caption, group, canvas)


def _has_curves(run: Run) -> bool:
    return run.status in ("complete", "diverged") and any(
        run.finite_curve(f"{half}_{kind}") for half in _HALVES for kind in _KINDS
    )


def _draw(axes: Axes, results: Results, name: str, kind: str) -> None:
    runs = [run for run in results.of(name) if _has_curves(run)]
    factor = 100.0 if kind == "acc" else 1.0
    for half, (label, colour, line) in _HALVES.items():
        mean = results.mean_curve(name, f"{half}_{kind}")
        shown = [(run.finite_curve(f"{half}_{kind}"), f"{label}, {run.seed}", ".", ONE_SEED) for run in runs]
        if mean:
            shown = [*(shown if len(runs) > 1 else ()), (mean, f"{label}, mean", "o", MEAN)]
        for curve, what, dot, style in shown:
            if curve:
                marker = dot if len(curve) == 1 else None
                axes.plot(*scale(curve, factor), color=colour, ls=line, marker=marker, label=what, **style)


def _title(results: Results, group: str, name: str) -> str:
    short = name.removeprefix(f"{group}/")
    if diverged := results.diverged(name):
        return f"{short}: {diverged}"
    complete, seeds = len(results.with_status(name, "complete")), len(results.of(name))
    return short if complete == seeds else f"{short}: {complete} of {seeds} seeds"


def _handles(runs: Sequence[Run]) -> list[Line2D]:
    several = len({run.seed for run in runs}) > 1
    handles = []
    for label, colour, line in _HALVES.values():
        suffix = ", mean over seeds" if several else ""
        handles.append(Line2D([], [], color=colour, ls=line, label=label + suffix, **MEAN))
        if several:
            handles.append(Line2D([], [], color=colour, ls=line, label=f"{label}, one seed", **ONE_SEED))
    return handles


def _limits(runs: Sequence[Run], kind: str) -> dict[str, Any]:
    """Choose y limits for the values of all runs, and a log scale if the largest loss is over 20 times the median.

    Diverged runs are left out, unless all runs diverged.
    """
    finished = [run for run in runs if run.status != "diverged"] or runs
    curves = [curve for run in finished for half in _HALVES if (curve := run.finite_curve(f"{half}_{kind}"))]
    values = sorted(value for curve in curves for value in curve.values())
    if not values:
        return {}
    low, high = values[0], values[-1]
    if kind == "acc":
        margin = max(0.05 * (high - low), 0.005)
        low, high = 100 * max(low - margin, min(low, 0.0)), 100 * min(high + margin, max(high, 1.0) + 0.01)
    elif low > 0 and high > 20 * values[len(values) // 2]:
        return {"yscale": "log", "ylim": (low / 1.2, high * 1.2)}
    else:
        margin = max(0.05 * (high - low), 1e-3)
        low, high = min(low, max(low - margin, 0.0)), high + margin
    # only a few ticks, computed once for all panels, because drawing ticks takes most of the time
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return {"ylim": (low, high), "yticks": [tick for tick in ticks if low <= tick <= high]}
