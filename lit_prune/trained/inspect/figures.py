"""Plots of `lit-prune inspect`: the layers, and the magnitudes of all weights."""

import tempfile
from collections.abc import Sequence
from math import ceil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from lit_prune.cli.figures import BLUE, ORANGE, new_figure, save_png, styled
from lit_prune.cli.parser import check_picture
from lit_prune.errors import expected
from lit_prune.functional.threshold import kth_smallest
from lit_prune.trained.layers import Inspection, printable_name, weight_tensors
from lit_prune.trained.network import Network

_WIDTH = 9.0
_TALLEST = 40.0  # inches
_NAMES = 200  # with more layers, only every second (third, ...) name is shown
_AMOUNTS = (0.3, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
_THRESHOLDS = 4
_DECADES = 5
_BINS = 120
_HIDDEN = 0.005  # fraction of the weights, the smallest ones, that the plot leaves out: some magnitudes are almost 0
_LIGHT = "#c8c8c8"


def check_plot(path: str) -> list[Path]:
    """Return the files to write for `--plot`: one PNG file for both plots, or two PNG files in an existing folder.

    Raises:
        InputError: If the path is neither a PNG file nor an existing folder.
        OSError: If the folder cannot be written to.
    """
    if path and Path(path).is_dir():
        with tempfile.TemporaryFile(dir=path):
            pass
        return [Path(path) / "layers.png", Path(path) / "magnitudes.png"]
    if Path(path).suffix.lower() != ".png":
        hint = "for example `--plot layers.png`; a folder must exist"
        raise expected("`--plot` to be a PNG file or an existing folder", f"`{path}`", hint)
    return [check_picture("--plot", path)]


def plot(network: Network, found: Inspection, paths: Sequence[Path]) -> None:
    """Draw the two plots of an inspected network into the one or two files in `paths`."""
    tall, low = 1.0 + min(0.19 * len(found.layers), _TALLEST), 3.4
    with styled():
        figures = [new_figure(_WIDTH, tall), new_figure(_WIDTH, low)]
        halves: Any = figures
        if len(paths) == 1:
            figures = [new_figure(_WIDTH, tall + low)]
            halves = figures[0].subfigures(2, 1, height_ratios=[tall, low])
        draw_layers(halves[0], found)
        draw_magnitudes(halves[1], network, found)
        for figure, path in zip(figures, paths, strict=True):
            save_png(figure, path)


def draw_layers(figure: FigureBase, found: Inspection) -> None:
    """Draw sparsity, number of weights and FLOPs of each layer, with the first layer at the top.

    If no weight is zero, and it is not known which weights received gradients, there is no panel for sparsity.
    """
    layers = found.layers
    rank = range(len(layers))
    flops = [layer.flops for layer in layers if layer.flops is not None]
    untouched = [layer.untouched for layer in layers if layer.untouched is not None]
    known = len(untouched) == len(layers)
    sparse = int(known or any(layer.zeros for layer in layers))
    panels: Any = figure.subplots(1, 1 + sparse + (len(flops) == len(layers)), sharey=True, squeeze=False)[0]
    name = f"{found.network or 'Weights'} in {Path(found.path).name}"
    figure.suptitle(name, fontsize=11, fontweight="bold", x=0.01, ha="left")

    if sparse:
        panels[0].barh(rank, [100 * layer.sparsity for layer in layers], color=BLUE, label="zero")
        if known:
            shares = [100 * count / max(layer.weights, 1) for count, layer in zip(untouched, layers, strict=True)]
            style = {"ls": "", "marker": "D", "ms": 4.5, "mfc": "white", "mec": ORANGE, "mew": 1.4}
            panels[0].plot(shares, rank, label="no gradient", **style)
        panels[0].axvline(100 * found.total.sparsity, color="black", lw=1, ls="--", label="zero, all layers")
        panels[0].set(xlim=(-3, 103), xlabel="% of the layer's weights")
    named = range(0, len(layers), ceil(len(layers) / _NAMES))
    panels[0].set(
        yticks=named, yticklabels=[printable_name(layers[n].name) for n in named], ylim=(len(layers) - 0.4, -0.6)
    )

    weights = [layer.weights / 1e3 for layer in layers]
    _stack(panels[sparse], weights, [(layer.weights - layer.zeros) / 1e3 for layer in layers], "thousand weights")
    if len(flops) == len(layers):
        _stack(panels[-1], [x.nominal / 1e6 for x in flops], [x.nonzero / 1e6 for x in flops], "MFLOPs")
    for axes in panels:
        axes.grid(visible=False, axis="y")
        axes.grid(visible=True, axis="x")
        axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=3, handlelength=1.2, columnspacing=1.0)


def _stack(axes: Any, whole: Sequence[float], part: Sequence[float], label: str) -> None:
    rank = range(len(whole))
    axes.barh(rank, whole, color=_LIGHT, label="all")
    axes.barh(rank, part, color=BLUE, height=0.45, label="nonzero")
    axes.set_xlabel(label)


def draw_magnitudes(figure: FigureBase, network: Network, found: Inspection) -> None:
    """Draw a histogram of the magnitudes of nonzero weights, with lines at `thresholds`."""
    kept, untouched = _kept(network)
    axes: Any = figure.subplots()
    axes.set_title("Magnitudes of the nonzero weights", fontweight="bold")
    if not len(kept):
        axes.text(0.5, 0.5, "all weights are zero", ha="center", va="center", transform=axes.transAxes)
        return
    bottom, top = np.log10([np.quantile(kept, _HIDDEN), kept.max()])
    edges = np.linspace(min(max(bottom, top - _DECADES), top - 1), top, _BINS + 1)
    logs = np.minimum(np.log10(kept), top)
    counts = np.histogram(logs, edges)[0] / 1e3
    axes.stairs(counts, 10**edges, fill=True, color=BLUE, label="weights")
    if untouched is not None:
        without = np.histogram(logs[untouched], edges)[0] / 1e3
        axes.stairs(without, 10**edges, fill=True, color=ORANGE, label="of these: never received a gradient")
    axes.set(xscale="log", xlim=(10 ** edges[0], 10 ** (top + 0.1)), ylim=(0, 1.16 * counts.max()))
    hidden = float((logs < edges[0]).mean())
    axes.set(
        xlabel=f"magnitude (without the smallest {hidden:.1%})" if hidden else "magnitude", ylabel="thousand weights"
    )
    axes.xaxis.set_major_formatter("{x:g}")
    for amount, value in thresholds(kept, found.total.weights, untouched).items():
        if value <= 10 ** edges[0]:
            continue
        if amount == 100 * (found.total.weights - len(kept)) / found.total.weights:
            axes.axvline(value, color="black", lw=1.4, ls=":", label="threshold of the last pruning")
        else:
            axes.axvline(value, color="black", lw=1, ls="--")
            text = {"rotation": 90, "ha": "right", "va": "top", "fontsize": 8}
            axes.text(value, 0.99, f"{amount:.3g}%", transform=axes.get_xaxis_transform(), **text)
    handles, labels = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="black", lw=1, ls="--"))
    labels.append("threshold at which global L1 pruning reaches this sparsity")
    axes.legend(handles, labels, loc="upper left", bbox_to_anchor=(0, -0.2), ncols=2, columnspacing=1.2)


def thresholds(
    kept: NDArray[np.floating[Any]], weights: int, untouched: NDArray[np.bool_] | None = None
) -> dict[float, float]:
    """Find, for several sparsities, the largest magnitude that global L1 pruning would set to zero.

    Args:
        kept: Magnitudes of the nonzero weights.
        weights: Number of all weights.
        untouched: True where a weight of `kept` has never received a gradient; None if this is not known.

    Returns:
        Threshold by sparsity in %. If the network has zeros, the first entry belongs to its current sparsity, and is
        the threshold of the last pruning: the smallest magnitude of the `untouched` weights, which training has not
        changed since then, or of all nonzero weights if none is untouched. After masks were removed, weights can have
        grown from zero and still be small, so this threshold can exceed that of the next entry.
    """
    zeros = weights - len(kept)
    unchanged = kept[untouched] if untouched is not None and untouched.any() else kept
    found = {100 * zeros / weights: float(unchanged.min())} if zeros else {}
    for amount in _AMOUNTS:
        more = round(amount * weights) - zeros
        if more >= max(1, 0.02 * weights) and len(found) < _THRESHOLDS:
            found[100 * amount] = kth_smallest([torch.from_numpy(kept)], more)[0]
    return found


def _kept(network: Network) -> tuple[NDArray[np.floating[Any]], NDArray[np.bool_] | None]:
    """Return the magnitudes of the finite nonzero weights, and which have never received a gradient (None: unknown)."""
    weights = weight_tensors(network)
    known = all(name in network.touched for name in weights)
    magnitudes, untouched = [], []
    for name, weight in weights.items():
        chosen = weight.isfinite() & (weight != 0)
        magnitudes.append(weight[chosen].float().abs())
        if known:
            untouched.append(~network.touched[name][chosen])
    return torch.cat(magnitudes).numpy(), torch.cat(untouched).numpy() if known else None
