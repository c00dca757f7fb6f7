"""How sparse: over epochs, layer by layer, and where sparsity stops falling when masks are taken off."""

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from lit_prune.study.report.figures.curves import groups
from lit_prune.study.report.figures.style import (
    BLACK,
    BLUE,
    LINES,
    MARKERS,
    SERIES,
    SMALL,
    Drawing,
    count_epochs,
    legend,
    new_canvas,
    panel,
    spread,
    text_width,
)
from lit_prune.study.results.curves import Curve, mean_curve, run_curve
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import has_removal, prunes, tradeoff
from lit_prune.study.statistics import estimate

__all__ = ["layers_figure", "plateau_figure", "sparsity_figure"]

_SPARSITY = "sparsity (% of weights that are zero)"


def sparsity_figure(results: Results) -> Drawing | None:
    """Draw sparsity over epochs of all experiments that prune and train: a panel a group, names beside the lines."""
    curves = {
        group: {
            e.name: curve
            for e in experiments
            if e.train and prunes(results, e.name) and (curve := mean_curve(results, e.name, "sparsity"))
        }
        for group, experiments in groups(results).items()
    }
    curves = {group: found for group, found in curves.items() if found}
    if not curves:
        return None
    columns = min(len(curves), 3)
    rows = math.ceil(len(curves) / columns)
    first, left, tall, above, below, head, width = 0.6, 0.4, 3.3, 0.3, 0.5, 0.35, 9.0
    right = 0.22 + min(text_width(_short(group, name) for group, found in curves.items() for name in found), 2.0)
    frame = min((width - first - (columns - 1) * left) / columns - right, 4.5)
    canvas = new_canvas(width, head + rows * (above + tall + below), "Sparsity over epochs")
    top = 100 * max(max(curve.values) for found in curves.values() for curve in found.values())
    last = max(curve.epochs[-1] for found in curves.values() for curve in found.values()) + 1
    for index, (group, found) in enumerate(curves.items()):
        row, column = divmod(index, columns)
        place = first + column * (frame + right + left)
        axes = panel(canvas, place, head + above + row * (above + tall + below), frame, tall)
        axes.set_title(group, loc="left")
        axes.set_ylim(-0.02 * top, 1.06 * top)
        count_epochs(axes, last)
        axes.set_xlabel("epoch")
        axes.set_ylabel(_SPARSITY if column == 0 else "")
        _label(axes, _lines(axes, group, found), 0.135 * 1.08 * top / tall)
    caption = (
        "Share of the prunable weights that are exactly zero at the end of each epoch, mean over seeds. Names stand "
        "beside the ends of their lines; where lines lie on each other, their names stand together."
    )
    return Drawing("sparsity", "Sparsity over epochs", caption, None, canvas)


def _lines(axes: Axes, group: str, found: dict[str, Curve]) -> list[tuple[float, str, str]]:
    """Draw lines; return the height, name and colour of their ends."""
    ends = []
    for index, (name, curve) in enumerate(found.items()):
        colour, x = SERIES[index % len(SERIES)], [epoch + 1 for epoch in curve.epochs]
        y = [100 * value for value in curve.values]
        every = max(min(2, len(x)), len(x) // 6)
        axes.plot(
            x,
            y,
            color=colour,
            ls=LINES[index % len(LINES)],
            lw=1.4,
            marker=MARKERS[index % len(MARKERS)],
            ms=5,
            # lines that lie on each other show their markers in turn
            markevery=(index % every, every),
            markerfacecolor="white" if index % 2 else colour,
            label=name,
        )
        ends.append((y[-1], _short(group, name), colour))
    return ends


def _label(axes: Axes, ends: Sequence[tuple[float, str, str]], height: float) -> None:
    """Write names to the right of a panel, each as high as that on the y axis."""
    ends = sorted(ends)
    places = spread([y for y, _, _ in ends], height, *axes.get_ylim())
    for (y, name, colour), place in zip(ends, places, strict=True):
        axes.annotate(
            name,
            xy=(1.0, y),
            xytext=(1.08, place),
            xycoords=axes.get_yaxis_transform(),
            textcoords=axes.get_yaxis_transform(),
            fontsize=SMALL,
            va="center",
            annotation_clip=False,
            arrowprops={"arrowstyle": "-", "color": colour, "lw": 0.8, "shrinkA": 0, "shrinkB": 0, "relpos": (0, 0.5)},
        )


def _short(group: str, name: str) -> str:
    return name.removeprefix(f"{group}/")


def plateau_figure(results: Results) -> Drawing | None:
    """Draw where sparsity stops falling without a mask, and the share of weights that were pruned and never learn."""
    names = [
        e.name
        for e in results.plan.experiments
        if has_removal(results.plan, e)
        and mean_curve(results, e.name, "sparsity")
        and results.values(e.name, "untouched_pruned")
    ]
    if not names:
        return None
    columns = min(len(names), 3)
    rows = math.ceil(len(names) / columns)
    left, right, tall, above, below, head, width = 0.72, 0.12, 1.45, 0.6, 0.4, 0.6, 9.0
    title = "Sparsity after the masks were taken off"
    canvas = new_canvas(width, head + rows * (above + tall + below), title)
    frame = min((width - 0.1) / columns - left - right, 5.0)
    for index, name in enumerate(names):
        row, column = divmod(index, columns)
        place = left + column * (left + frame + right)
        axes = panel(canvas, place, head + above + row * (above + tall + below), frame, tall)
        _plateau(axes, results, name)
        axes.set_ylabel("sparsity (%)" if column == 0 else "")
        axes.yaxis.set_label_coords(-0.5 / frame, 0.5)
    several = any(len(results.with_status(name, "complete")) > 1 for name in names)
    handles = [Line2D([], [], color=BLUE, lw=1.9, label="sparsity, mean over seeds" if several else "sparsity")]
    if several:
        handles.append(Line2D([], [], color=BLUE, lw=0.7, alpha=0.6, label="one seed"))
    handles.append(Line2D([], [], color=BLACK, lw=1.2, ls="--", label="pruned and never given a gradient"))
    legend(canvas, handles, 0.34, 3)
    caption = (
        "Sparsity at the end of each epoch after pruning and `prune.remove`, each panel with its own narrow range. "
        "Dashed: the share of weights that were pruned and have not received one non-zero gradient; nothing can move "
        "these from zero."
    )
    return Drawing("plateau", title, caption, None, canvas)


def _plateau(axes: Axes, results: Results, name: str) -> None:
    runs = results.with_status(name, "complete")
    values: list[float] = []
    for run in runs:
        if len(runs) > 1 and (curve := run_curve(run, "sparsity")):
            y = [100 * value for value in curve.values]
            axes.plot([e + 1 for e in curve.epochs], y, color=BLUE, lw=0.7, alpha=0.6, label=f"seed {run.seed}")
            values += y
    mean, untouched = mean_curve(results, name, "sparsity"), results.values(name, "untouched_pruned")
    level = estimate(100 * value for value in untouched.values())
    if mean is None or level is None:
        return
    y = [100 * value for value in mean.values]
    every = max(1, len(y) // 20)
    axes.plot([e + 1 for e in mean.epochs], y, color=BLUE, lw=1.9, marker="o", ms=3, markevery=every, label="mean")
    axes.axhline(level.mean, color=BLACK, lw=1.2, ls="--")
    values += [*y, level.mean]
    # half a tenth of a percentage point is the least that is worth a picture
    margin = max(0.12 * (max(values) - min(values)), 0.025)
    axes.set_ylim(min(values) - margin, max(values) + margin)
    axes.yaxis.set_major_locator(MaxNLocator(nbins=4))
    count_epochs(axes, max(run.epochs[-1] for run in runs) + 1)
    axes.set_xlabel("epoch")
    start = estimate(results.values(name, "sparsity_start").values())
    pruned = f", {100 * start.mean:.1f}% pruned" if start else ""
    axes.set_title(
        f"{name}{pruned}\nsparsity after epoch {mean.epochs[-1] + 1}: {y[-1]:.3f}%\n"
        f"pruned, no gradient: {level.mean:.3f}%",
        loc="left",
        fontsize=SMALL,
        linespacing=1.15,
    )


def layers_figure(results: Results) -> Drawing | None:
    """Draw how sparse each layer is at the end, for the longest series of trained experiments with a mask."""
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
    left, head, tall = 0.2 + text_width(layers), 0.45, 0.17 * len(layers) + 0.1
    title = f"Sparsity of each layer at the end: {chosen.label}"
    rows = math.ceil(len(found) / 3)
    canvas = new_canvas(9.0, head + tall + 0.6 + 0.19 * rows, title)
    axes = panel(canvas, left, head, 9.0 - left - 0.2, tall)
    for index, (name, (sparsity, values)) in enumerate(found.items()):
        rank = [layers.index(layer) for layer in values]
        style: dict[str, Any] = {"marker": MARKERS[index % len(MARKERS)], "color": SERIES[index % len(SERIES)]}
        style |= {"ls": LINES[index % len(LINES)], "lw": 0.7, "ms": 5}
        if index % 2:  # what lies below shows through
            style["markerfacecolor"] = "none"
        label = f"{name} ({100 * sparsity:.1f}% of all)"
        axes.plot([100 * value for value in values.values()], rank, label=label, **style)
    axes.set(yticks=range(len(layers)), yticklabels=layers, ylim=(len(layers) - 0.4, -0.6), xlim=(-2, 102))
    axes.set_xlabel(_SPARSITY)
    axes.grid(True, axis="x")
    legend(canvas, axes.get_lines(), head + tall + 0.5, 3)
    caption = (
        "Share of each layer's weights that are zero after the last epoch, mean over seeds, first layer at the top. "
        "Pruning is global: one threshold for all layers."
    )
    return Drawing("layers", title, caption, None, canvas)


def _layers(results: Results, point: Any) -> dict[str, float]:
    """Mean over seeds of each layer's sparsity after the last epoch."""
    runs = results.with_status(point.experiment, "complete")
    last: dict[str, list[float]] = {}
    for run in runs:
        for layer, values in run.layers.items():
            if finite := [value for value in values if math.isfinite(value)]:
                last.setdefault(layer, []).append(finite[-1])
    return {layer: math.fsum(values) / len(values) for layer, values in last.items()}
