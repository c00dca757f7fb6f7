"""Parts that all figures of a report share: the class `Drawing`, line styles, and axes with epochs."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from lit_prune.study.results.run_files import Curve

WIDTH = 9.0  # inches
SPARSITY = "sparsity (% of weights that are zero)"
# line styles for a mean over seeds, and for one seed
MEAN: dict[str, Any] = {"lw": 1.9}
ONE_SEED: dict[str, Any] = {"lw": 0.7, "alpha": 0.6}


@dataclass(frozen=True)
class Drawing:
    """A finished figure that is not yet written to a file.

    Attributes:
        name: Name of the figure's file, without the suffix.
        title: Title.
        caption: A few sentences on how to read the figure.
        group: Group of the experiments in the figure; None if they belong to several groups.
        canvas: The matplotlib figure.
    """

    name: str
    title: str
    caption: str
    group: str | None
    canvas: Canvas


def scale(curve: Curve, factor: float = 100.0) -> tuple[list[int], list[float]]:
    """Return the epochs of a curve, counted from 1, and its values times a factor."""
    return [epoch + 1 for epoch in curve], [factor * value for value in curve.values()]


def count_epochs(axes: Axes, last: int) -> None:
    """Show the epochs from 1 to `last` on the x axis, with ticks at integers."""
    margin = 0.03 * max(last - 1, 1)
    if last <= 6:
        ticks = list(range(1, last + 1))
    else:
        ticks = [int(tick) for tick in MaxNLocator(nbins=4, integer=True).tick_values(0, last) if 1 <= tick <= last]
    axes.set(xlim=(1 - margin, last + margin), xticks=ticks)
