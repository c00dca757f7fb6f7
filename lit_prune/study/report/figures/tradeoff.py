"""Figure of accuracy against sparsity, with published curves for comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from lit_prune.cli.figures import BLACK, GREY, legend_below, new_figure, series_style
from lit_prune.study.report.figures.drawing import SPARSITY, WIDTH, Drawing
from lit_prune.study.results.published import SOURCE, PublishedCurve, published_for
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, tradeoff

# in percentage points: the y axis shows at least the range `_LEAST`; it may be broken in a gap wider than `_GAP`
_LEAST = (-5.0, 1.5)
_GAP = 6.0
_PUBLISHED_LINES = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (10, 2)))


def tradeoff_figure(results: Results) -> Drawing | None:
    """Draw the difference in accuracy from a dense network against sparsity, with intervals over seeds.

    Returns:
        The figure; None if no pruned experiment can be compared with a dense one.
    """
    series = [one for one in tradeoff(results) if any(point.difference for point in one.points)]
    if not series:
        return None
    published = published_for(results.plan)
    kind = "test" if "test" in accuracy_measure(results) else "validation"
    ranges = _ranges(series)
    lowest = min(float(_points(one)[0].min()) for one in series)
    left = -2.0 if lowest < 50 else (lowest - 5) // 10 * 10
    title = "Accuracy against sparsity"
    heights = [3.4, 1.2][: len(ranges)]
    legend = 0.2 * (max(len(series), len(published)) + 1)
    canvas = new_figure(WIDTH, 1.0 + sum(heights) + legend, title)
    grid = canvas.add_gridspec(len(ranges), 1, height_ratios=heights)
    panels = [canvas.add_subplot(grid[index, 0]) for index in range(len(ranges))]
    for axes, limits in zip(panels, ranges, strict=True):
        axes.set(xlim=(left, 102), ylim=limits)
        _draw(axes, series, published)
        axes.grid(visible=True, axis="x")
    panels[-1].set_xlabel(SPARSITY)
    panels[0].set_ylabel(f"{kind} accuracy minus dense accuracy\n(percentage points)")
    if len(panels) > 1:
        _mark_break(*panels)
    handles = [Line2D([], [], label=one.label, lw=1.2, **series_style(i)) for i, one in enumerate(series)]
    legend_below(canvas, handles, 1)
    if published:
        context = [
            Line2D([], [], color=GREY, lw=0.9, ls=line, label=f"{curve.network}, {curve.method}")
            for curve, line in zip(published, _PUBLISHED_LINES, strict=True)
        ]
        heading = "published, other networks, trained in full:"
        legend_below(canvas, context, 1, "right", title=heading, alignment="left")
    compared = sorted({point.dense for one in series for point in one.points if point.difference and point.dense})
    several = any(d.low is not None for one in series for point in one.points if (d := point.difference))
    caption = (
        f"Final {kind} accuracy minus the accuracy of a dense network ({', '.join(compared)}) with the same seed"
        f"{': means and 95% intervals over seeds' if several else ''}. A network that is not trained after pruning is "
        "compared with the same network before pruning. Lines are shifted sideways so that markers do not hide each "
        "other."
        + (" The y axis is broken, and coarser below the break." if len(panels) > 1 else "")
        + (f" Grey, for comparison: {SOURCE}." if published else "")
    )
    return Drawing("accuracy-against-sparsity", title, caption, None, canvas)


def _ranges(series: Sequence[Series]) -> list[tuple[float, float]]:
    """Choose the y range; if some points lie far below all others, choose two ranges, the second for these points."""
    _, means, lows, highs = np.concatenate([_points(one) for one in series], axis=1)
    order = np.argsort(-means)
    drops = -np.diff(means[order])
    cuts = [n + 1 for n, drop in enumerate(drops) if drop > max(_GAP, means[order[0]] - means[order[n]])]
    near, far = (order[: cuts[0]], order[cuts[0] :]) if cuts else (order, order[:0])
    low, high = min(float(lows[near].min()) - 0.5, _LEAST[0]), max(float(highs.max()) + 0.5, _LEAST[1])
    if not len(far) or means[far].max() > low:
        return [(min(low, float(lows.min()) - 0.5), high)]
    return [(low, high), (float(lows[far].min()) - 2, min(low, float(highs[far].max()) + 2))]


def _mark_break(upper: Axes, lower: Axes) -> None:
    """Hide the axis between two panels, and mark the break with slanted lines."""
    upper.spines["bottom"].set_visible(False)
    upper.tick_params(bottom=False, labelbottom=False)
    lower.yaxis.set_major_locator(MaxNLocator(nbins=3))
    style: dict[str, Any] = {"marker": [(-1, -0.5), (1, 0.5)], "ms": 9, "ls": "", "color": BLACK, "clip_on": False}
    upper.plot([0], [0], transform=upper.transAxes, **style)
    lower.plot([0], [1], transform=lower.transAxes, **style)


def _points(series: Series) -> NDArray[np.float64]:
    """Return four rows: sparsity (%), difference (percentage points), and both ends of the difference's interval."""
    rows = [(point.sparsity, d.mean, *d.interval) for point in series.points if (d := point.difference)]
    return 100 * np.array(rows).T


def _draw(axes: Axes, series: Sequence[Series], published: Sequence[PublishedCurve]) -> None:
    for curve, line in zip(published, _PUBLISHED_LINES, strict=False):
        axes.plot(curve.sparsity, curve.differences, color=GREY, lw=0.9, ls=line)
    axes.axhline(0, color=BLACK, lw=0.8)
    left, right = axes.get_xlim()
    shift = 0.009 * (right - left)  # so that markers at the same sparsity do not hide each other
    for index, one in enumerate(series):
        sparsity, mean, low, high = _points(one)
        aside = shift * (index - (len(series) - 1) / 2)
        style: dict[str, Any] = {"lw": 1.2, "elinewidth": 1.0, "capsize": 2.5} | series_style(index)
        # a single seed has no interval, and gets no error bar
        bars = (mean - low, high - mean) if (high > low).any() else None
        axes.errorbar(sparsity + aside, mean, yerr=bars, label=one.label, **style)
