"""Whether an exported file computes what the network computes."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import isfinite

import torch
from torch import Tensor

from lit_prune.errors import UnfinishedError, expected
from lit_prune.trained.scoring import Score

__all__ = ["TOLERANCE", "Check", "check", "in_batches", "random_batches", "same_bits"]

Run = Callable[[Tensor], Tensor]

# Two ways to add up float32 numbers in layer after layer differ by about 1e-6 of the largest; a wrong weight, a layer
# in the wrong mode or another normalisation by far more than this.
TOLERANCE = 1e-4
_SHOWN = 200


@dataclass(frozen=True)
class Check:
    """A comparison of logits.

    Attributes:
        images: How many were compared.
        difference: The largest, of any logit.
        largest: The largest logit of the network, in magnitude.
        changed: Images whose class is another one in the file.
        scores: How many images the network and the file got right, where labels are known.
    """

    images: int
    difference: float
    largest: float
    changed: int
    scores: tuple[Score, Score] | None = None

    @property
    def bound(self) -> float:
        """How large a difference may be: `TOLERANCE` of the largest logit, or of 1 if that is larger."""
        return TOLERANCE * max(1.0, self.largest)

    def require(self, what: str) -> "Check":
        """Return the check if it was passed.

        Args:
            what: Which images were compared, for the message.

        Raises:
            UnfinishedError: If the difference is above the bound, or no number.
        """
        if isfinite(self.difference) and self.difference <= self.bound:
            return self
        found = f"a difference of {self.difference:.2g} on {what}"
        raise _unlike(f"logits that differ by at most {self.bound:.2g}", found)


def check(network: Run, exported: Run, batches: Iterable[tuple[Tensor, Tensor | None]]) -> Check:
    """Compare the logits of a network with those of an exported file.

    Args:
        network: From images to logits, (N, ...).
        exported: The same, of the file.
        batches: Images, and labels if there are any; at least one image.

    Raises:
        UnfinishedError: If the file cannot be run, or gives logits of another shape.
    """
    images = changed = labelled = 0
    difference = largest = 0.0
    right = [0, 0]
    with torch.inference_mode():
        for batch, labels in batches:
            wanted = network(batch).flatten(1)
            found = _given_by(exported, batch).flatten(1)
            if found.shape != wanted.shape:
                raise _unlike(f"logits of shape {tuple(wanted.shape)} from the file", str(tuple(found.shape)))
            images += len(batch)
            # `max` of Python would lose a NaN
            difference = float(torch.tensor([difference, (wanted - found).abs().max()]).max())
            largest = max(largest, float(wanted.abs().max()))
            classes = [logits.argmax(1) for logits in (wanted, found)]
            changed += int((classes[0] != classes[1]).sum())
            if labels is not None:
                labelled += len(labels)
                right = [so_far + int((c == labels).sum()) for so_far, c in zip(right, classes, strict=True)]
    scores = (Score(right[0], labelled), Score(right[1], labelled)) if labelled else None
    return Check(images, difference, largest, changed, scores)


def _given_by(exported: Run, images: Tensor) -> Tensor:
    try:
        return exported(images)
    except (UnfinishedError, MemoryError):
        raise
    except Exception as error:  # what runs files has errors of its own for what it cannot do
        found = " ".join(str(error).split()).rstrip(".")[:_SHOWN] or type(error).__name__
        raise _unlike(f"a file that can be run on {len(images)} images", found) from error


def _unlike(what: str, found: str) -> UnfinishedError:
    hint = "nothing was written; other options, such as another `--format`, may give an exact file"
    return UnfinishedError(str(expected(what, found, hint)))


def in_batches(run: Run, batch: int | None) -> Run:
    """Let a file that takes batches of one size run any number of images: the last ones are filled up.

    Args:
        run: What takes batches of that size.
        batch: The size; None for a file that takes any.
    """
    if batch is None:
        return run

    def run_all(images: Tensor) -> Tensor:
        parts = []
        for part in torch.split(images, batch):
            filled = torch.cat([part, part[:1].expand(batch - len(part), *part.shape[1:])])
            parts.append(run(filled)[: len(part)])
        return torch.cat(parts)

    return run_all


def random_batches(batch: int | None, channels: int, input_size: int) -> Iterator[tuple[Tensor, None]]:
    """Draw images from a normal distribution, which is what normalised images have about: always the same ones.

    Args:
        batch: Images in a batch; None gives batches of several sizes, one image among them.
        channels: Of the images.
        input_size: Height and width, in pixels.
    """
    generator = torch.Generator().manual_seed(0)
    for count in (1, 2, 7) if batch is None else (batch,):
        yield torch.randn(count, channels, input_size, input_size, generator=generator), None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Tell whether two tensors are the same in type, shape and every bit, NaNs and signs of zeros included."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    first, second = (tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (a, b))
    return torch.equal(first, second)
