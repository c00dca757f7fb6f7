"""Check that an exported file computes the same logits as the network."""

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lit_prune.errors import UnfinishedError, one_line
from lit_prune.trained.scoring import Run, Score

# Rounding of float32 sums changes logits by about 1e-6 of the largest logit; a wrong weight, a layer in training mode
# or a wrong normalisation changes them by far more than 1e-4 of the largest.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Check:
    """Comparison of the logits of a network with those of its exported file.

    Attributes:
        images: Number of images, or of rows of other inputs, on which logits were compared.
        difference: Largest absolute difference between a logit of the network and that of the file.
        largest: Largest magnitude of the network's logits.
        changed: Number of images for which the file predicts another class than the network.
        scores: Accuracy of the network and of the file; None without labels.
    """

    images: int
    difference: float
    largest: float
    changed: int
    scores: tuple[Score, Score] | None = None

    @property
    def bound(self) -> float:
        """Largest allowed difference: `TOLERANCE` times `largest`, but at least `TOLERANCE`."""
        return TOLERANCE * max(1.0, self.largest)

    def require(self, images: str) -> "Check":
        """Return this check, or raise an `UnfinishedError` if `difference` is above `bound`, NaN or infinite."""
        if isfinite(self.difference) and self.difference <= self.bound:
            return self
        raise _failed(
            f"computes logits that differ from the network's by {self.difference:.2g} on {images}; at most "
            f"{self.bound:.2g} is allowed"
        )


def check(network: Run, exported: Run, batches: Iterable[tuple[Tensor | tuple[Tensor, ...], Tensor | None]]) -> Check:
    """Compare the logits (N, ...) of a network with those of an exported file, on batches of inputs and labels.

    Raises:
        UnfinishedError: If the file cannot be run, or computes logits of another shape than the network.
    """
    images = changed = labelled = 0
    difference = largest = 0.0
    right = [0, 0]
    with torch.inference_mode():
        for batch, labels in batches:
            inputs = batch if isinstance(batch, tuple) else (batch,)
            wanted, found = _rows(network(*inputs)), _rows(_run(exported, inputs))
            if found.shape != wanted.shape:
                raise _failed(f"computes logits of shape {tuple(found.shape)} instead of {tuple(wanted.shape)}")
            images += len(wanted)
            # Python's `max` would lose a NaN
            difference = float(torch.tensor([difference, (wanted - found).abs().max()]).max())
            largest = max(largest, float(wanted.abs().max()))
            classes = [logits.argmax(1) for logits in (wanted, found)]
            changed += int((classes[0] != classes[1]).sum())
            if labels is not None:
                labelled += len(labels)
                right = [so_far + int((c == labels).sum()) for so_far, c in zip(right, classes, strict=True)]
    scores = (Score(right[0], labelled), Score(right[1], labelled)) if labelled else None
    return Check(images, difference, largest, changed, scores)


def _rows(logits: Tensor) -> Tensor:
    """Return logits (N, ...) as a matrix with one row for each input."""
    return logits.flatten(1) if logits.dim() > 1 else logits[:, None]


def _run(exported: Run, inputs: tuple[Tensor, ...]) -> Tensor:
    try:
        return exported(*inputs)
    except (UnfinishedError, MemoryError):
        raise
    except Exception as error:  # ONNX Runtime raises errors of its own classes
        raise _failed(f"cannot be run on {len(inputs[0])} images: {one_line(error)}") from error


def _failed(what: str) -> UnfinishedError:
    return UnfinishedError(f"The exported file {what}. It was not kept; try another `--format` or other options.")


def in_batches(run: Run, batch: int | None) -> Run:
    """Make `run`, which accepts exactly `batch` images, accept any number; return it unchanged if `batch` is None."""
    if batch is None:
        return run

    def run_all(*inputs: Tensor) -> Tensor:
        parts = []
        for part in zip(*(torch.split(tensor, batch) for tensor in inputs), strict=True):
            filled = (torch.cat([t, t[:1].expand(batch - len(t), *t.shape[1:])]) for t in part)
            parts.append(run(*filled)[: len(part[0])])
        return torch.cat(parts)

    return run_all
