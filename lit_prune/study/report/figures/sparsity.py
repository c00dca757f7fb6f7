"""Figures of sparsity: over epochs, over epochs after masks were removed, and by layer."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lit_prune.cli.figures import BLACK, BLUE, SERIES, legend_below, make_panels, new_figure, series_style
from lit_prune.study.report.figures.drawing import (
    EPOCHS,
    MEAN,
    ONE_SEED,
    SPARSITY,
    WIDTH,
    Drawing,
    from_start,
    show_epoch_numbers,
)
from lit_prune.study.results.results import Results, Run
from lit_prune.study.results.tradeoff import Point, has_removal, prunes, tradeoff
from lit_prune.study.statistics import estimate


def sparsity_figure(results: Results) -> Drawing | None:
    """Draw sparsity over epochs for all experiments that prune and train, with one panel per group."""
    curves = {
        group: {
            e.name.removeprefix(f"{group}/"): _mean(results, e.name)
            for e in experiments
            if e.train and prunes(results, e.name) and results.mean_curve(e.name, "sparsity")
        }
        for group, experiments in results.groups().items()
    }
    curves = {group: found for group, found in curves.items() if found}
    if not curves:
        return None
    longest = max(len(name) for found in curves.values() for name in found)
    columns = min(len(curves), 3 if longest < 20 else 1)
    line = 0.135  # height of a line of text in inches
    height = max(3.0, 1.2 * line * max(map(len, curves.values())))  # of a panel's axes, so that all names fit
    rows = math.ceil(len(curves) / columns)
    canvas = new_figure(WIDTH, 0.4 + (1.0 + height) * rows, "Sparsity over epochs")
    top = max(max(y) for found in curves.values() for _, y in found.values())
    panels = make_panels(canvas, len(curves), columns)
    for index, (axes, (group, found)) in enumerate(zip(panels, curves.items(), strict=True)):
        axes.set(title=group, xlabel=EPOCHS, ylabel=SPARSITY if index % columns == 0 else "")
        axes.set_ylim(-0.02 * top, 1.06 * top)
        show_epoch_numbers(axes, max(x[-1] for x, _ in found.values()), 0)
        for number, (name, (x, y)) in enumerate(found.items()):
            every = max(min(2, len(x)), len(x) // 6)  # lines that coincide have markers at different epochs
            style: dict[str, Any] = {"lw": 1.4, "markevery": (number % every, every), "drawstyle": "steps-pre"}
            style |= series_style(number)
            axes.plot(x, y, label=f"{group}/{name}", mfc="white" if number % 2 else style["color"], **style)
        _label(axes, {name: (x[-1], y[-1]) for name, (x, y) in found.items()}, line * 1.08 * top / height)
    caption = (
        "Fraction of the prunable weights that are exactly zero, before training (at 0 epochs) and after each epoch"
        f"{', mean over seeds' if _several(results) else ''}. A line leads from the last point of an experiment to its "
        "name; names of experiments that end close together are stacked."
    )
    return Drawing("sparsity", "Sparsity over epochs", caption, None, canvas)


def _mean(results: Results, name: str) -> tuple[list[int], list[float]]:
    """Return the mean sparsity in per cent over epochs, starting with the value before training if it is known."""
    start = estimate(results.values(name, "sparsity_start").values())
    known = all(_start(run) is not None for run in results.with_status(name, "complete"))
    return from_start(results.mean_curve(name, "sparsity"), start.mean if start is not None and known else None)


def _start(run: Run) -> float | None:
    """Return the sparsity of a run after pruning and before its first step; None if the run did not record it."""
    recorded = any(value > 0 for value in run.finite_curve("ever_pruned").values())
    return run.measures.get("sparsity_start") if recorded else None


def _several(results: Results) -> bool:
    return len(results.plan.seeds) > 1


def _label(axes: Axes, last: Mapping[str, tuple[float, float]], height: float) -> None:
    """Write the names of the lines to the right of a panel, for the last point of each line.

    Each name needs `height` on the y axis.
    """
    ends = sorted((y, name, x, SERIES[n % len(SERIES)]) for n, (name, (x, y)) in enumerate(last.items()))
    places = separate_labels([y for y, *_ in ends], height, *axes.get_ylim())
    for (y, name, x, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            xy=(x, y),
            xytext=(1.06, place),
            xycoords="data",
            textcoords=("axes fraction", "data"),
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def separate_labels(wanted: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """Move labels apart so that they do not overlap.

    Args:
        wanted: Desired middles of the labels on the axis, ascending.
        height: Height of each label.
        low: Lower end of the space for all labels.
        high: Upper end of the space; if the labels do not fit, they extend beyond it.

    Returns:
        New middles, in the same order. Labels that would overlap are stacked around the mean of their desired middles.
    """

    def bottom(stack: Sequence[float]) -> float:
        room = len(stack) * height
        return max(low, min(high - room, sum(stack) / len(stack) - room / 2))

    stacks: list[list[float]] = []
    for middle in wanted:
        stacks.append([middle])
        while len(stacks) > 1 and bottom(stacks[-1]) < bottom(stacks[-2]) + len(stacks[-2]) * height:
            last = stacks.pop()
            stacks[-1] += last
    return [bottom(stack) + (index + 0.5) * height for stack in stacks for index in range(len(stack))]


def plateau_figure(results: Results) -> Drawing | None:
    """Draw sparsity after masks were removed, and the fraction of weights that were pruned and received no gradient."""
    names = [
        e.name
        for e in results.plan.experiments
        if has_removal(results.plan, e)
        and results.mean_curve(e.name, "sparsity")
        and results.values(e.name, "untouched_pruned")
    ]
    if not names:
        return None
    columns = min(len(names), 3)
    title = "Sparsity after the masks were removed"
    canvas = new_figure(WIDTH, 0.8 + 2.5 * math.ceil(len(names) / columns), title)
    for index, (axes, name) in enumerate(zip(make_panels(canvas, len(names), columns), names, strict=True)):
        _plateau(axes, results, name)
        axes.set_ylabel("sparsity (%)" if index % columns == 0 else "")
    several = _several(results)
    handles = [Line2D([], [], color=BLUE, label="sparsity, mean over seeds" if several else "sparsity", **MEAN)]
    if several:
        handles.append(Line2D([], [], color=BLUE, label="one seed", **ONE_SEED))
    handles.append(Line2D([], [], color=BLACK, lw=1.2, ls="--", label="pruned weights without a gradient"))
    legend_below(canvas, handles, 3)
    caption = (
        "Sparsity after pruning, before the first training step (at 0 epochs), and after each epoch. Each panel has "
        "its own y range, from 0. Dashed: the fraction of weights that were pruned and never received a non-zero "
        "gradient; these stay zero."
    )
    return Drawing("plateau", title, caption, None, canvas)


def _plateau(axes: Axes, results: Results, name: str) -> None:
    runs = results.with_status(name, "complete")
    level = estimate(100 * value for value in results.values(name, "untouched_pruned").values())
    x, y = _mean(results, name)
    if level is None:
        return
    for run in runs if len(runs) > 1 else ():
        if curve := run.finite_curve("sparsity"):
            axes.plot(*from_start(curve, _start(run)), color=BLUE, label=f"seed {run.seed}", **ONE_SEED)
    axes.plot(x, y, color=BLUE, marker="o", ms=3, markevery=max(1, len(y) // 20), label="mean", **MEAN)
    axes.axhline(level.mean, color=BLACK, lw=1.2, ls="--")
    axes.set_ylim(0, 1.08 * max(*y, level.mean, 1e-3))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    show_epoch_numbers(axes, max(run.epochs[-1] for run in runs) + 1, 0)
    axes.set_xlabel(EPOCHS)
    start = f"{y[0]:.3f}% pruned" if x[0] == 0 else "start not recorded"
    lines = (
        f"{name}: {start}",
        f"after {x[-1]} epoch{'' if x[-1] == 1 else 's'}: {y[-1]:.3f}%",
        f"pruned, no gradient: {level.mean:.3f}%",
    )
    axes.set_title("\n".join(lines), fontsize=8.5, linespacing=1.15)


def layers_figure(results: Results) -> Drawing | None:
    """Draw the final sparsity of each layer for the largest series of experiments that all train."""
    series = [
        one
        for one in tradeoff(results)
        if all(results.plan[point.experiment].train for point in one.points) and _layers(results, one.points[0])
    ]
    if not series:
        return None
    chosen = max(series, key=lambda one: len(one.points))
    found = {point.experiment: (point.sparsity, _layers(results, point)) for point in chosen.points}
    layers = list(dict.fromkeys(layer for _, values in found.values() for layer in values))
    title = f"Sparsity of each layer at the end: {chosen.label}"
    canvas = new_figure(WIDTH, 1.1 + 0.17 * len(layers) + 0.19 * math.ceil(len(found) / 3), title)
    (axes,) = make_panels(canvas, 1, 1)
    for index, (name, (sparsity, values)) in enumerate(found.items()):
        rank = [layers.index(layer) for layer in values]
        style: dict[str, Any] = {"lw": 0.7, "label": f"{name} ({100 * sparsity:.1f}% of all)"} | series_style(index)
        filling = "none" if index % 2 else style["color"]  # hollow, so that markers underneath can be seen
        axes.plot([100 * value for value in values.values()], rank, mfc=filling, **style)
    axes.set(yticks=range(len(layers)), yticklabels=layers, ylim=(len(layers) - 0.4, -0.6), xlim=(-2, 102))
    axes.set_xlabel(SPARSITY)
    axes.grid(visible=True, axis="x")
    legend_below(canvas, axes.get_lines(), 3)
    caption = (
        "Fraction of each layer's weights that are zero after the last epoch"
        f"{', mean over seeds' if _several(results) else ''}. The first layer is at the top."
        + (" Pruning is global: one threshold for all layers." if chosen.slug.startswith("l1") else "")
    )
    return Drawing("layers", title, caption, None, canvas)


def _layers(results: Results, point: Point) -> dict[str, float]:
    """Average the final sparsity of each layer over seeds."""
    last: dict[str, list[float]] = {}
    for run in results.with_status(point.experiment, "complete"):
        for layer, values in run.layers.items():
            if finite := [value for value in values.values() if math.isfinite(value)]:
                last.setdefault(layer, []).append(finite[-1])
    return {layer: math.fsum(values) / len(values) for layer, values in last.items()}
