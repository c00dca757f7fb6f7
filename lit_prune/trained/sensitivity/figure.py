"""Heat map of `lit-prune sensitivity`: the change in accuracy if only one layer is pruned, for each layer."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.patches import Rectangle

from lit_prune.cli.figures import new_figure, save_png, styled
from lit_prune.errors import shorten
from lit_prune.trained.layers import printable_name
from lit_prune.trained.sensitivity.result import Sensitivity
from lit_prune.trained.sensitivity.text import format_points


def draw_map(found: Sensitivity, tolerance: float, path: Path) -> None:
    """Draw a row for each layer, the first at the top, and a column for each amount.

    In each row, a frame encloses the safe amounts: those up to `Sensitivity.safe`, the largest amount that costs at
    most `tolerance` percentage points of accuracy.
    """
    layers, amounts = list(found.sizes), found.amounts
    changes = np.array([found.changes(layer) for layer in layers])
    deepest = max(-float(changes.min()), tolerance, 1e-9)
    with styled():
        metric = found.base.metric or f"{found.split} accuracy"
        title = f"Change in {metric}, only one layer pruned by {found.criterion}"
        subtitle = (
            f"{shorten(Path(found.path).name, 30)}\n{found.base.accuracy:.2%} {found.base.describe(found.split)}\n"
            f"framed: pruning costs at most {format_points(tolerance)} of accuracy"
        )
        names = [printable_name(layer) for layer in layers]
        # inches: names, cells below the subtitle, colour bar; a character of 9 points is at most 0.09 inches wide
        left = 0.08 * max(map(len, names))
        cells = max(0.62 * len(amounts), 0.09 * max(map(len, subtitle.splitlines())))
        width = max(left + cells + 0.9, 0.11 * len(title))
        figure = new_figure(width, 1.7 + min(0.23 * max(len(layers), 3), 100.0), title)
        axes: Any = figure.subplots()
        image = axes.imshow(np.minimum(changes, 0), aspect="auto", cmap="YlGnBu_r", vmin=-deepest, vmax=0)
        for row, column in np.ndindex(changes.shape):
            change = changes[row, column]
            colour = "white" if -change > 0.5 * deepest else "black"
            axes.text(column, row, f"{change:+.1f}", ha="center", va="center", fontsize=8, color=colour)
        for row, layer in enumerate(layers):
            kept = sum(amount <= found.safe(layer, tolerance) for amount in amounts)
            axes.add_patch(Rectangle((-0.5, row - 0.5), kept, 1, fill=False, ec="black", lw=1.3))
        axes.set(xticks=range(len(amounts)), xticklabels=[f"{100 * amount:g}%" for amount in amounts])
        axes.set(yticks=range(len(layers)), yticklabels=names)
        axes.set_xlabel("sparsity of the layer")
        axes.tick_params(length=0)
        axes.grid(visible=False)
        axes.spines[:].set_visible(False)
        figure.colorbar(image, ax=axes, label="points", aspect=40, pad=0.02)
        axes.set_title(subtitle)
        save_png(figure, path)
