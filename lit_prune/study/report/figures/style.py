"""How figures look: panels placed by hand, and lines that can be told apart without colours."""

import io
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path
from matplotlib.ticker import MaxNLocator

__all__ = [
    "BLACK",
    "BLUE",
    "GREY",
    "LINES",
    "MARKERS",
    "ORANGE",
    "RC",
    "SERIES",
    "SMALL",
    "Drawing",
    "count_epochs",
    "legend",
    "new_canvas",
    "panel",
    "png",
    "spread",
    "text_width",
]

# Okabe and Ito's colours, which colour-blind readers can tell apart; from dark to light, without the yellow
BLACK, BLUE, ORANGE, GREY = "#000000", "#0072B2", "#E69F00", "#777777"
SERIES = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#56B4E9", "#E69F00")
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
SMALL = 8.5
DPI = 110
# names are text, no formulas, where they hold a $
RC: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    # where it belongs from the start; to find out whether something is in its way takes as long as all the lines
    "axes.titley": 1.0,
    "xtick.labelsize": SMALL,
    "ytick.labelsize": SMALL,
    "legend.fontsize": SMALL,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "text.usetex": False,
    "text.parse_math": False,
    "path.simplify": True,
}


@dataclass(frozen=True)
class Drawing:
    """A figure before it is a file.

    Attributes:
        name: Of the file, without its suffix.
        title: What it shows.
        caption: How to read it, one or two sentences.
        group: First part of the names of its experiments, if it is about one group.
        canvas: matplotlib's figure.
    """

    name: str
    title: str
    caption: str
    group: str | None
    canvas: Canvas


def new_canvas(width: float, height: float, title: str) -> Canvas:
    """Make an empty figure of a size in inches, with a title at its top left."""
    canvas = Canvas(figsize=(width, height), dpi=DPI)
    FigureCanvasAgg(canvas)
    canvas.text(0.1 / width, 1 - 0.08 / height, title, fontsize=11, fontweight="bold", va="top", ha="left")
    return canvas


def panel(canvas: Canvas, left: float, top: float, width: float, height: float, **options: Any) -> Axes:
    """Place a panel by the inches of its frame from the figure's left and top; layout engines take seconds."""
    across, down = canvas.get_size_inches()
    axes: Axes = canvas.add_axes((left / across, 1 - (top + height) / down, width / across, height / down), **options)
    axes.tick_params(length=2.5, pad=2)
    axes.xaxis.set_label_coords(0.5, -0.22 / height)
    axes.yaxis.set_label_coords(-0.38 / width, 0.5)
    return axes


def legend(canvas: Canvas, handles: Sequence[Any], top: float, columns: int, **options: Any) -> None:
    """Draw a legend without a frame, its top so many inches below the figure's."""
    across, down = canvas.get_size_inches()
    place = (options.pop("left", 0.1) / across, 1 - top / down)
    settings: dict[str, Any] = {"frameon": False, "borderaxespad": 0, "borderpad": 0, "handlelength": 2.6} | options
    canvas.legend(handles=handles, loc="upper left", bbox_to_anchor=place, ncols=columns, **settings)


def count_epochs(axes: Axes, last: int) -> None:
    """Put whole epochs, counted from 1 to `last`, on the x axis."""
    margin = 0.03 * max(last - 1, 1)
    if last <= 6:
        ticks = list(range(1, last + 1))
    else:
        ticks = [int(tick) for tick in MaxNLocator(nbins=4, integer=True).tick_values(0, last) if 1 <= tick <= last]
    axes.set(xlim=(1 - margin, last + margin), xticks=ticks)


def text_width(texts: Iterable[str], size: float = SMALL) -> float:
    """Measure the longest line of texts, in inches."""
    font = FontProperties(family=["DejaVu Sans"], size=size)
    lines = [line for text in texts for line in text.split("\n")]
    return max((text_to_path.get_text_width_height_descent(line, font, False)[0] / 72 for line in lines), default=0.0)


def spread(wanted: Sequence[float], height: float, low: float, high: float) -> list[float]:
    """Move labels apart so that they do not overlap.

    Args:
        wanted: The middle of each, ascending.
        height: How much room each takes.
        low: Where the room for all of them begins.
        high: Where it ends; crossed only if they do not fit.

    Returns:
        A middle for each, in the same order; those in each other's way stand around the mean of what they wanted.
    """
    stacks: list[list[float]] = []
    for middle in wanted:
        stacks.append([middle])
        while len(stacks) > 1 and _bottom(stacks[-1], height, low, high) < _top(stacks[-2], height, low, high):
            last = stacks.pop()
            stacks[-1] += last
    return [
        _bottom(stack, height, low, high) + (index + 0.5) * height for stack in stacks for index in range(len(stack))
    ]


def _bottom(stack: Sequence[float], height: float, low: float, high: float) -> float:
    room = len(stack) * height
    return max(low, min(high - room, sum(stack) / len(stack) - room / 2))


def _top(stack: Sequence[float], height: float, low: float, high: float) -> float:
    return _bottom(stack, height, low, high) + len(stack) * height


def png(canvas: Canvas) -> bytes:
    """Draw a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # a title in a script that DejaVu Sans lacks shows boxes, which is no reason to fail or to complain
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        # as small as with zlib's usual effort, and sooner
        canvas.savefig(buffer, format="png", dpi=DPI, metadata={"Software": None}, pil_kwargs={"compress_level": 3})
    return buffer.getvalue()
