"""What pruning costs: accuracy against sparsity, beside what others have published."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from lit_prune.study.report.figures.style import BLACK, GREY, LINES, MARKERS, SERIES, Drawing, legend, new_canvas, panel
from lit_prune.study.results.published import SOURCE, PublishedCurve, published_for
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, tradeoff

__all__ = ["tradeoff_figure"]

# percentage points; a fall below asks for a second panel that shows the rest in detail
_DETAIL = (-6.0, 3.0)
_PUBLISHED_LINES = ((0, (1, 1)), (0, (4, 1.5)), (0, (6, 1.5, 1, 1.5)), (0, (10, 2)))


def tradeoff_figure(results: Results) -> Drawing | None:
    """Draw the difference in accuracy from dense training against sparsity, with intervals over seeds.

    Args:
        results: A study.

    Returns:
        None where no pruned experiment has a dense one to compare with.
    """
    series = [one for one in tradeoff(results) if any(point.difference for point in one.points)]
    if not series:
        return None
    measure = accuracy_measure(results)
    ends = [end for one in series for _, _, low, high in _points(one) for end in (low, high)]
    whole = (min(ends) - 1.0, max(*ends, 0.0) + 1.0)
    title = "Accuracy against sparsity"
    left, tall = 0.85, 3.2
    panels = 2 if whole[0] < 1.5 * _DETAIL[0] else 1
    head = 0.62 if panels == 2 else 0.4
    frame = (9.0 - 0.15 - panels * left) / panels
    published = published_for(results.plan)
    rows = max(len(series), len(published))
    canvas = new_canvas(9.0, head + tall + 0.6 + 0.2 * (rows + 1), title)
    limits = [whole, _DETAIL] if panels == 2 else [(min(whole[0], _DETAIL[0]), max(whole[1], 1.5))]
    for column, limit in enumerate(limits):
        axes = panel(canvas, left + column * (left + frame), head, frame, tall)
        _draw(axes, series, published)
        axes.set(xlim=(-2, 102), ylim=limit)
        axes.grid(True, axis="x")
        axes.set_xlabel("sparsity (% of weights that are zero)")
        if panels == 2:
            axes.set_title(("all", "the same, in detail")[column], loc="left")
    kind = "test" if "test" in measure else "validation"
    canvas.axes[0].set_ylabel(f"{kind} accuracy less that of dense\n(percentage points)")
    canvas.axes[0].yaxis.set_label_coords(-0.44 / frame, 0.5)  # beside ticks as long as -10.0
    top = head + tall + 0.52
    legend(canvas, _handles(series), top, 1, left=left)
    if published:
        context = _published_handles(published)
        legend(canvas, context, top, 1, left=4.9, title="published, other networks, trained in full:", alignment="left")
    compared = sorted({point.dense for one in series for point in one.points if point.difference and point.dense})
    caption = (
        f"Final {kind} accuracy less that of a dense model ({', '.join(compared)}), paired by seed, with 95% intervals "
        "over seeds; what is not trained is compared with the model that it was. Markers beside each other are at "
        "the same sparsity." + (f" Grey, as context: {SOURCE}." if published else "")
    )
    return Drawing("accuracy-against-sparsity", title, caption, None, canvas)


def _points(series: Series) -> list[tuple[float, float, float, float]]:
    """Sparsity, difference and its interval, in per cent and percentage points."""
    return [
        (
            100 * point.sparsity,
            100 * d.mean,
            100 * (d.mean if d.low is None else d.low),
            100 * (d.mean if d.high is None else d.high),
        )
        for point in series.points
        if (d := point.difference)
    ]


def _draw(axes: Axes, series: Sequence[Series], published: Sequence[PublishedCurve]) -> None:
    for curve, line in zip(published, _PUBLISHED_LINES, strict=False):
        axes.plot(curve.sparsity, curve.differences, color=GREY, lw=0.9, ls=line)
    axes.axhline(0, color=BLACK, lw=0.8)
    for index, one in enumerate(series):
        points = _points(one)
        # beside each other, or markers at the same sparsity would hide each other
        aside = 0.9 * (index - (len(series) - 1) / 2)
        x = [sparsity + aside for sparsity, *_ in points]
        y = [difference for _, difference, *_ in points]
        errors = [[d - low for _, d, low, _ in points], [high - d for _, d, _, high in points]]
        style: Any = {"color": _colour(index), "ls": _line(index), "marker": _marker(index)}
        axes.errorbar(x, y, yerr=errors, lw=1.2, ms=5, elinewidth=1.0, capsize=2.5, label=one.label, **style)


def _handles(series: Sequence[Series]) -> list[Line2D]:
    return [
        Line2D([], [], color=_colour(i), ls=_line(i), marker=_marker(i), lw=1.2, ms=5, label=one.label)
        for i, one in enumerate(series)
    ]


def _published_handles(published: Sequence[PublishedCurve]) -> list[Line2D]:
    return [
        Line2D([], [], color=GREY, lw=0.9, ls=line, label=f"{curve.network}, {curve.method}")
        for curve, line in zip(published, _PUBLISHED_LINES, strict=False)
    ]


def _colour(index: int) -> str:
    return SERIES[index % len(SERIES)]


def _line(index: int) -> object:
    return LINES[index % len(LINES)]


def _marker(index: int) -> str:
    return MARKERS[index % len(MARKERS)]
