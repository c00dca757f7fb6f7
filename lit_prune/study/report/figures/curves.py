"""Loss and accuracy over epochs, side by side for each experiment, as the seed study drew them."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lit_prune.study.plan.plan import Experiment
from lit_prune.study.report.figures.style import BLUE, LINES, ORANGE, Drawing, count_epochs, legend, new_canvas, panel
from lit_prune.study.results.curves import diverged_label, mean_curve, run_curve
from lit_prune.study.results.results import Results, Run

__all__ = ["curve_figures", "groups"]

_HALVES = {"train": ("training", ORANGE, LINES[1]), "val": ("validation", BLUE, LINES[0])}
_KINDS = {"loss": "loss (nats per image)", "acc": "accuracy (%)"}
# more would make a figure that no screen shows
_MOST = 20


def groups(results: Results) -> dict[str, list[Experiment]]:
    """Experiments by the first part of their names, in the plan's order."""
    found: dict[str, list[Experiment]] = {}
    for experiment in results.plan.experiments:
        found.setdefault(experiment.name.split("/")[0], []).append(experiment)
    return found


def curve_figures(results: Results) -> Iterator[Drawing]:
    """Draw a figure for each group that has trained, several if it is large.

    Args:
        results: A study.

    Yields:
        Figures with two panels an experiment: loss, accuracy. Axes are the same for all experiments of a group.
    """
    for group, experiments in groups(results).items():
        shown = [e.name for e in experiments if e.train and any(_drawn(run) for run in results.of(e.name))]
        parts = [shown[start : start + _MOST] for start in range(0, len(shown), _MOST)]
        for number, part in enumerate(parts, start=1):
            yield _figure(results, group, part, f"-{number}" if len(parts) > 1 else "")


def _figure(results: Results, group: str, names: Sequence[str], suffix: str) -> Drawing:
    title = results.plan.groups.get(group, group)
    runs = [run for name in names for run in results.of(name) if _drawn(run)]
    kinds = [kind for kind in _KINDS if any(run_curve(run, f"{half}_{kind}") for run in runs for half in _HALVES)]
    across = len(kinds) * (2 if len(names) > 3 else 1)
    rows = math.ceil(len(names) * len(kinds) / across)
    # inches: a panel's frame, what stands left of it, above it and below it
    left, above, below, head, foot = 0.62, 0.27, 0.16, 0.6, 0.3
    frame = (9.0 - 0.1) / across - left - 0.12
    tall = 1.3 if across == 4 else 1.5
    canvas = new_canvas(9.0, head + rows * (above + tall + below) + foot, title)
    legend(canvas, _handles(results, runs), 0.33, 4)
    limits = {kind: _limits(runs, kind) for kind in kinds}
    last = max(run.epochs[-1] for run in runs) + 1
    for index, name in enumerate(names):
        for place, kind in enumerate(kinds):
            row, column = divmod(index * len(kinds) + place, across)
            axes = panel(
                canvas,
                0.1 + left + column * (left + frame + 0.12),
                head + above + row * (above + tall + below),
                frame,
                tall,
            )
            _draw(axes, results, name, kind)
            axes.set(ylabel=_KINDS[kind], **limits[kind])
            count_epochs(axes, last)
            if index + across // len(kinds) < len(names):
                axes.set_xticks([])  # they are those of the panel below
            else:
                axes.set_xlabel("epoch")
            if place == 0:
                axes.set_title(_title(results, group, name), loc="left", pad=4)
    caption = (
        "Loss and accuracy of training and validation over epochs, each experiment side by side; axes are the same in "
        "all panels. A thin line is one seed, a thick line the mean over seeds. Validation follows an epoch's "
        "training; what is drawn as training is the mean over the epoch while it trains."
    )
    return Drawing(f"curves-{group}{suffix}", f"{title}: loss and accuracy over epochs", caption, group, canvas)


def _drawn(run: Run) -> bool:
    return run.status in ("complete", "diverged") and any(
        run_curve(run, f"{half}_{kind}") for half in _HALVES for kind in _KINDS
    )


def _draw(axes: Axes, results: Results, name: str, kind: str) -> None:
    runs = [run for run in results.of(name) if _drawn(run)]
    scale = 100 if kind == "acc" else 1
    for half, (label, colour, line) in _HALVES.items():
        mean = mean_curve(results, name, f"{half}_{kind}")
        for run in runs if mean is None or len(runs) > 1 else ():
            if curve := run_curve(run, f"{half}_{kind}"):
                x, y = [epoch + 1 for epoch in curve.epochs], [scale * value for value in curve.values]
                marker = "." if len(x) == 1 else None
                axes.plot(x, y, color=colour, lw=0.7, ls=line, marker=marker, alpha=0.6, label=f"{label}, {run.seed}")
        if mean:
            x, y = [epoch + 1 for epoch in mean.epochs], [scale * value for value in mean.values]
            axes.plot(x, y, color=colour, lw=1.9, ls=line, marker="o" if len(x) == 1 else None, label=f"{label}, mean")


def _title(results: Results, group: str, name: str) -> str:
    short = name.removeprefix(f"{group}/")
    if diverged := diverged_label(results, name):
        return f"{short}: {diverged}"
    complete, seeds = len(results.with_status(name, "complete")), len(results.of(name))
    return short if complete == seeds else f"{short}: {complete} of {seeds} seeds"


def _handles(results: Results, runs: Sequence[Run]) -> list[Line2D]:
    several = len({run.seed for run in runs}) > 1
    handles = []
    for label, colour, line in _HALVES.values():
        said = f"{label}, mean over seeds" if several else label
        handles.append(Line2D([], [], color=colour, lw=1.9, ls=line, label=said))
        if several:
            handles.append(Line2D([], [], color=colour, lw=0.7, ls=line, alpha=0.6, label=f"{label}, one seed"))
    return handles


def _limits(runs: Sequence[Run], kind: str) -> dict[str, Any]:
    """Limits that hold every value of a group, and a scale."""
    calm = [run for run in runs if run.status != "diverged"] or runs
    curves = [curve for run in calm for half in _HALVES if (curve := run_curve(run, f"{half}_{kind}"))]
    values = sorted(value for curve in curves for value in curve.values)
    if not values:
        return {}
    low, high = values[0], values[-1]
    if kind == "acc":
        margin = max(0.05 * (high - low), 0.005)
        return _linear(100 * max(low - margin, min(low, 0.0)), 100 * min(high + margin, max(high, 1.0) + 0.01))
    # one epoch that went astray would flatten all others
    if low > 0 and high > 20 * values[len(values) // 2]:
        return {"yscale": "log", "ylim": (low / 1.2, high * 1.2)}
    margin = max(0.05 * (high - low), 1e-3)
    return _linear(min(low, max(low - margin, 0.0)), high + margin)


def _linear(low: float, high: float) -> dict[str, Any]:
    # found once for a group, and few: ticks are what takes longest to draw
    ticks = MaxNLocator(nbins=4, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
    return {"ylim": (low, high), "yticks": [tick for tick in ticks if low <= tick <= high]}
