"""Parts that all figures of a report share: the class `Drawing`, line styles, and axes with epochs."""

from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import MaxNLocator

from lit_prune.study.results.run_files import Curve

WIDTH = 9.0  # inches
SPARSITY = "sparsity (% of weights that are zero)"
EPOCHS = "epochs trained"  # metrics.csv and TensorBoard hold the values after n epochs under the epoch n - 1
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
    """Return the number of trained epochs at each point of a curve, and the curve's values times a factor."""
    return [epoch + 1 for epoch in curve], [factor * value for value in curve.values()]


def from_start(curve: Curve, start: float | None) -> tuple[list[int], list[float]]:
    """Return the same as `scale` for sparsity in per cent, with the sparsity before training first, if it is known."""
    epochs, values = scale(curve)
    return (epochs, values) if start is None else ([0, *epochs], [100 * start, *values])


def show_epoch_numbers(axes: Axes, last: int, first: int = 1) -> None:
    """Show the numbers of trained epochs from `first` to `last` on the x axis, with ticks at integers."""
    margin = 0.03 * max(last - first, 1)
    if last <= 6:
        ticks = list(range(first, last + 1))
    else:
        ticks = [int(tick) for tick in MaxNLocator(nbins=4, integer=True).tick_values(0, last) if first <= tick <= last]
    axes.set(xlim=(first - margin, last + margin), xticks=ticks)
