"""Figure of accuracy against sparsity, with published curves for comparison."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lit_prune.cli.figures import BLACK, GREY, legend_below, make_panels, new_figure, series_style
from lit_prune.study.report.figures.drawing import SPARSITY, WIDTH, Drawing
from lit_prune.study.results.published import SOURCE, PublishedCurve, published_for
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, tradeoff

# y range of a more detailed second panel, in percentage points; it is drawn if some differences are far below -6
_DETAIL = (-6.0, 3.0)
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
    ends = np.concatenate([_points(one)[2:] for one in series], axis=1)
    low, high = float(ends.min()) - 1.0, max(float(ends.max()), 0.0) + 1.0
    if low < 1.5 * _DETAIL[0]:
        limits = {"all": (low, high), "the same, in detail": _DETAIL}
    else:
        limits = {"": (min(low, _DETAIL[0]), max(high, 1.5))}
    title = "Accuracy against sparsity"
    canvas = new_figure(WIDTH, 4.2 + 0.2 * (max(len(series), len(published)) + 1), title)
    panels = make_panels(canvas, len(limits), len(limits))
    for axes, (name, limit) in zip(panels, limits.items(), strict=True):
        _draw(axes, series, published)
        axes.set(title=name, xlabel=SPARSITY, xlim=(-2, 102), ylim=limit)
        axes.grid(visible=True, axis="x")
    panels[0].set_ylabel(f"{kind} accuracy minus dense accuracy\n(percentage points)")
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
    caption = (
        f"Final {kind} accuracy minus the accuracy of a dense network ({', '.join(compared)}) with the same seed: "
        "means and 95% intervals over seeds. A network that is not trained after pruning is compared with the same "
        "network before pruning. Lines are shifted sideways so that markers do not hide each other."
        + (f" Grey, for comparison: {SOURCE}." if published else "")
    )
    return Drawing("accuracy-against-sparsity", title, caption, None, canvas)


def _points(series: Series) -> NDArray[np.float64]:
    """Return four rows: sparsity (%), difference (percentage points), and both ends of the difference's interval."""
    rows = [(point.sparsity, d.mean, *d.interval) for point in series.points if (d := point.difference)]
    return 100 * np.array(rows).T


def _draw(axes: Axes, series: Sequence[Series], published: Sequence[PublishedCurve]) -> None:
    for curve, line in zip(published, _PUBLISHED_LINES, strict=False):
        axes.plot(curve.sparsity, curve.differences, color=GREY, lw=0.9, ls=line)
    axes.axhline(0, color=BLACK, lw=0.8)
    for index, one in enumerate(series):
        sparsity, mean, low, high = _points(one)
        aside = 0.9 * (index - (len(series) - 1) / 2)  # so that markers at the same sparsity do not hide each other
        style: dict[str, Any] = {"lw": 1.2, "elinewidth": 1.0, "capsize": 2.5} | series_style(index)
        axes.errorbar(sparsity + aside, mean, yerr=(mean - low, high - mean), label=one.label, **style)
