"""What `SparsityMonitor` draws for TensorBoard."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sparsity import SparsityReport

__all__ = ["draw_histograms", "draw_sparsity"]


def draw_sparsity(writer: Any, report: SparsityReport, epoch: int) -> None:
    """Draw one bar for each layer, as the image `sparsity/layers`.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`.
        report: What to draw.
        epoch: Step at which the image is shown.
    """
    # here, because most users of the callbacks do not draw; a figure of its own, because pyplot is global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1 + 0.25 * len(report.layers)), layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.barh([layer.name for layer in report.layers], [layer.sparsity for layer in report.layers])
    axes.axvline(report.sparsity, color="black", linestyle="--", label=f"all: {report.sparsity:.2%}")
    axes.set(xlim=(0, 1), xlabel="fraction of weights that are zero", title=f"Epoch {epoch}")
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    canvas.draw()
    writer.add_image("sparsity/layers", np.asarray(canvas.buffer_rgba())[..., :3], epoch, dataformats="HWC")


def draw_histograms(writer: Any, weights: Sequence[WeightRef], epoch: int) -> None:
    """Draw histograms of each layer's weights, with the zeros and without.

    Args:
        writer: A `torch.utils.tensorboard.SummaryWriter`.
        weights: What to draw.
        epoch: Step at which the histograms are shown.
    """
    with torch.no_grad():
        for ref in weights:
            weight = getattr(ref.module, ref.parameter).float()
            writer.add_histogram(f"weights/{ref.name}", weight, epoch)
            alive = weight[weight != 0]
            # TensorBoard refuses to draw nothing
            if len(alive):
                writer.add_histogram(f"weights_nonzero/{ref.name}", alive, epoch)
