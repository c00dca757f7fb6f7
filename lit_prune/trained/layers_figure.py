"""How the pictures of these commands look, and how they become files."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lit_prune.errors import expected
from lit_prune.files.atomic import replacing
from lit_prune.trained.arguments import check_output

__all__ = ["BLUE", "GREY", "ORANGE", "check_picture", "new_figure", "save_png", "styled"]

# Okabe and Ito's colours, which colour-blind readers can tell apart
BLUE, ORANGE, GREY = "#0072B2", "#E69F00", "#c8c8c8"
_DPI = 110
_STYLE: Any = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 8.5,
    "axes.titlesize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    # names of layers are text, no formulas, where they hold a $
    "text.usetex": False,
    "text.parse_math": False,
}


@contextmanager
def styled() -> Iterator[None]:
    """Draw in this style, whatever somebody's matplotlibrc says."""
    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


def new_figure(width: float, height: float) -> Figure:
    """Make an empty figure of a size in inches, to be used inside `styled`."""
    figure = Figure(figsize=(width, height), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save_png(figure: Figure, path: Path) -> None:
    """Write a figure as a PNG file, whole or not at all.

    Raises:
        OSError: If it cannot be written.
    """
    with replacing(path) as part, warnings.catch_warnings():
        # a name in a script that the font lacks shows boxes, which is no reason to complain
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(part, format="png", dpi=_DPI, metadata={"Software": None})


def check_picture(option: str, path: str) -> Path:
    """Refuse, before any work, what cannot become a PNG file.

    Args:
        option: What the path was given to, for messages.
        path: A file.

    Raises:
        InputError: If the name does not end in .png, or its folder is not there.
        OSError: If nothing can be written there.
    """
    picture = Path(path)
    if picture.suffix.lower() != ".png" or picture.is_dir():
        hint = f"for example `{option} layers.png`"
        raise expected(f"`{option}` to be a PNG file", f"`{path}`", hint)
    return check_output(path, option=option)
