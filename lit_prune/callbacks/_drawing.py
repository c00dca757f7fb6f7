"""Figures and histograms that `SparsityMonitor` writes to TensorBoard, through a `SummaryWriter`."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sparsity import SparsityReport

_TILE = 64  # pixels of a mask's tile, each way
_COLUMNS = 6
_KEPT, _CHANGED = (0.12, 0.25, 0.45), (1.0, 0.5, 0.05)  # red, green, blue


def draw_sparsity(writer: Any, report: SparsityReport, epoch: int) -> None:
    """Draw the sparsity of each layer as a bar chart, and write it to a `torch.utils.tensorboard.SummaryWriter`."""
    canvas, axes = _new_figure(8, 1 + 0.25 * len(report.layers))
    axes.barh([layer.name for layer in report.layers], [layer.sparsity for layer in report.layers])
    axes.axvline(report.sparsity, color="black", linestyle="--", label=f"all: {report.sparsity:.2%}")
    axes.set(xlim=(0, 1), xlabel="fraction of weights that are zero", title=f"Epoch {epoch}")
    axes.invert_yaxis()
    axes.legend(loc="lower right")
    _write(writer, "sparsity/layers", canvas, epoch)


def draw_histograms(writer: Any, weights: Sequence[WeightRef], epoch: int) -> None:
    """Write histograms of each layer's weights, with and without zeros, to a `SummaryWriter`."""
    with torch.no_grad():
        for ref in weights:
            weight = getattr(ref.module, ref.parameter).float()
            writer.add_histogram(f"weights/{ref.name}", weight, epoch)
            nonzero = weight[weight != 0]
            if len(nonzero):  # TensorBoard raises an error for empty histograms
                writer.add_histogram(f"weights_nonzero/{ref.name}", nonzero, epoch)


def draw_masks(
    writer: Any,
    masks: Mapping[str, Tensor],
    changed: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    epoch: int,
) -> None:
    """Draw the mask of each layer as a tile, and write all of them as one image.

    Rows of a tile are output channels, columns are input channels and positions in the kernel. A pixel of a large layer
    stands for many weights: the more of them are kept, the darker it is; the more have changed, the more orange it is.

    Args:
        writer: The writer.
        masks: Masks by layer, true where a weight is kept; a layer without one is dense.
        changed: For each layer with a mask, which weights have been pruned or have grown since the previous image.
        shapes: Shapes of the weights of all layers.
        epoch: Step of the image.
    """
    rows = -(-len(shapes) // _COLUMNS)
    height, width = _TILE + 26, _TILE + 22  # of a tile with its name
    sheet = np.ones((rows * height, min(_COLUMNS, len(shapes)) * width, 3), np.float32)
    canvas, axes = _new_figure(sheet.shape[1] / 45, sheet.shape[0] / 45 + 0.4)
    for number, (name, shape) in enumerate(shapes.items()):
        top, left = number // _COLUMNS * height + 20, number % _COLUMNS * width + 11
        mask = masks.get(name, torch.ones(shape)).float()
        change = changed.get(name, torch.zeros(shape)).float()
        kept, new = _shrink(mask), _shrink(change)
        tile = (1 - kept + kept * _KEPT) * (1 - new) + new * _CHANGED
        sheet[top : top + _TILE, left : left + _TILE] = tile
        label = f"{name if len(name) <= 30 else f'...{name[-27:]}'}\n{float(mask.mean()):.1%} kept"
        if change.any():
            label += f", {float(change.mean()):.1%} changed"
        axes.text(left, top - 3, label, fontsize=7, va="bottom", linespacing=1.1)
    axes.imshow(sheet, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(f"Epoch {epoch}: kept weights (dark), changed since the previous image (orange)", fontsize=9)
    _write(writer, "masks/layers", canvas, epoch)


def _shrink(values: Tensor) -> Any:
    """Average a weight's values into a tile of shape (pixels, pixels, 1)."""
    flat = values.flatten(1).cpu() if values.dim() > 1 else values.cpu()[:, None]
    return adaptive_avg_pool2d(flat[None], _TILE)[0, ..., None].numpy()


def _new_figure(width: float, height: float) -> tuple[Any, Any]:
    # imported here, because most runs do not draw; not pyplot, which has global state
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return FigureCanvasAgg(figure), figure.add_subplot()


def _write(writer: Any, tag: str, canvas: Any, epoch: int) -> None:
    canvas.draw()
    writer.add_image(tag, np.asarray(canvas.buffer_rgba())[..., :3], epoch, dataformats="HWC")
