"""The figures of a report."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lit_prune.cli.figures import save_png, styled
from lit_prune.study.report.figures.curves import curve_figures
from lit_prune.study.report.figures.drawing import Drawing
from lit_prune.study.report.figures.scores import score_figures
from lit_prune.study.report.figures.sparsity import layers_figure, plateau_figure, sparsity_figure
from lit_prune.study.report.figures.tradeoff import tradeoff_figure
from lit_prune.study.results.results import Results

__all__ = ["Figure", "draw", "drawings"]


@dataclass(frozen=True)
class Figure:
    """A figure in a PNG file; `Drawing` describes `title`, `caption` and `group`."""

    path: Path
    title: str
    caption: str
    group: str | None


def draw(results: Results, folder: Path) -> list[Figure]:
    """Draw all figures for which a study has results, write them to a folder, and return them in the report's order.

    Raises:
        OSError: If a file cannot be written.
    """
    figures = []
    with styled():
        for drawing in drawings(results):
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"{drawing.name}.png"
            save_png(drawing.canvas, path)
            figures.append(Figure(path, drawing.title, drawing.caption, drawing.group))
    return figures


def drawings(results: Results) -> Iterator[Drawing]:
    """Yield the figures one at a time. The caller must iterate inside `with styled():`."""
    yield from curve_figures(results)
    yield from score_figures(results)
    builders = (tradeoff_figure, sparsity_figure, plateau_figure, layers_figure)
    yield from filter(None, (build(results) for build in builders))
