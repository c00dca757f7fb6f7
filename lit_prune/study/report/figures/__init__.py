"""The pictures of a report."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl

from lit_prune.files.atomic import replacing
from lit_prune.study.report.figures.curves import curve_figures
from lit_prune.study.report.figures.scores import score_figures
from lit_prune.study.report.figures.sparsity import layers_figure, plateau_figure, sparsity_figure
from lit_prune.study.report.figures.style import RC, Drawing, png
from lit_prune.study.report.figures.tradeoff import tradeoff_figure
from lit_prune.study.results.results import Results

__all__ = ["Figure", "draw", "drawings"]


@dataclass(frozen=True)
class Figure:
    """A picture in a file.

    Attributes:
        path: A PNG file.
        title: What it shows.
        caption: How to read it, one to three sentences.
        group: First part of the names of its experiments, if it is about one group of a study.
    """

    path: Path
    title: str
    caption: str
    group: str | None


def draw(results: Results, folder: Path) -> list[Figure]:
    """Draw whatever a study has to show.

    Args:
        results: A study, complete or not.
        folder: Where the PNG files go; it is made if need be, and files of the same names are replaced.

    Returns:
        The figures, in the order in which a report shows them; none that would be empty.

    Raises:
        OSError: If a file cannot be written.
    """
    figures = []
    with _no_collection(), mpl.rc_context():
        mpl.rcdefaults()  # whatever somebody's matplotlibrc says
        mpl.rcParams.update(RC)
        for drawing in drawings(results):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{drawing.name}.png"
            with replacing(path) as part:
                part.write_bytes(png(drawing.canvas))
            figures.append(Figure(path, drawing.title, drawing.caption, drawing.group))
    return figures


@contextmanager
def _no_collection() -> Iterator[None]:
    """Figures are many small objects in circles; to search them for garbage again and again takes a fifth of all."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def drawings(results: Results) -> Iterator[Drawing]:
    """Build the figures, one after the other."""
    yield from curve_figures(results)
    yield from score_figures(results)
    for build in (tradeoff_figure, sparsity_figure, plateau_figure, layers_figure):
        if (drawing := build(results)) is not None:
            yield drawing
