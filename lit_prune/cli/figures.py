"""Draw figures in one style, and write them to PNG files."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_prune.files.atomic import replacing

# Okabe and Ito's colours, which colour-blind readers can tell apart; their yellow is left out, as it is too light
BLACK, BLUE, ORANGE, GREY = "#000000", "#0072B2", "#E69F00", "#777777"
SERIES = (BLUE, "#D55E00", "#009E73", BLACK, "#CC79A7", "#56B4E9", ORANGE)
# line styles that readers can tell apart in black and white
LINES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.5)), (0, (6, 2, 1, 2)), (0, (3, 1, 1, 1, 1, 1)))
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "*", "p", "h")
_DPI = 110
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.labelsize": 9,
    "axes.titlelocation": "left",
    "axes.titley": 1.0,  # fixed height of titles, because placing them automatically takes as long as drawing all lines
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.formatter.useoffset": False,
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    # show a $ in a name as it is; matplotlib would read it as the start of a formula
    "text.usetex": False,
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Use the project's style inside a `with` block, whatever the user's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float, title: str = "") -> Figure:
    """Make an empty figure with a title at the top left; sizes are in inches. Call this inside `with styled():`."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    if title:
        figure.suptitle(title, x=0.01, ha="left", fontsize=11, fontweight="bold")
    return figure


def make_panels(figure: Figure, count: int, columns: int) -> list[Axes]:
    """Add `count` panels in rows of `columns`; the last row may be shorter."""
    grid = figure.add_gridspec(-(-count // columns), columns)
    return [figure.add_subplot(grid[divmod(index, columns)]) for index in range(count)]


def series_style(index: int) -> dict[str, Any]:
    """Return a colour, a line style and a marker; for indices that differ by less than 5, all three differ."""
    colour, line, marker = (options[index % len(options)] for options in (SERIES, LINES, _MARKERS))
    return {"color": colour, "ls": line, "marker": marker, "ms": 5}


def legend_below(
    figure: Figure, handles: Sequence[Any], columns: int, side: Literal["left", "right"] = "left", **options: Any
) -> None:
    """Add a legend below all panels."""
    loc: Any = f"outside lower {side}"
    figure.legend(handles=handles, loc=loc, ncols=columns, **options)


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure to a PNG file, completely or not at all."""
    with replacing(path) as part, warnings.catch_warnings():
        # layer names can be too long for the figure, or hold characters that the font lacks, which become boxes
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        warnings.filterwarnings("ignore", message="constrained_layout not applied")
        # level 3 makes files as small as zlib's default level, in less time
        settings = {"compress_level": 3}
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None}, pil_kwargs=settings)
