"""How good a network is: the same images, and the same accuracy, as `lit-prune validate` and `test`."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from inspect import signature
from typing import Literal

import torch
from jsonargparse import Namespace
from torch import Tensor

from lit_prune.cli.failures import describe_failure
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import expected
from lit_prune.trained.network import Network

__all__ = ["Score", "accuracy", "batches", "data_module", "typed_data"]


@dataclass(frozen=True)
class Score:
    """How many images a network got right.

    Attributes:
        right: Images whose highest logit is that of their label.
        images: Images in all, at least one.
    """

    right: int
    images: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.images or self.images == 0:
            raise expected("0 <= right <= images, and images", f"{self.right} of {self.images}", "score some images")

    @property
    def accuracy(self) -> float:
        """Fraction of the images."""
        return self.right / self.images


def typed_data(given: Namespace) -> bool:
    """Say whether any of `--data.NAME` was typed."""
    return len(given.data.as_dict()) > 0


def data_module(network: Network, given: Namespace) -> CIFAR10DataModule:
    """Make the data of a checkpoint's run, with what was typed instead of its settings.

    Args:
        network: Its settings name the images that it was not trained on.
        given: What was parsed.

    Raises:
        InputError: If an argument cannot be used.
    """
    known = signature(CIFAR10DataModule).parameters
    stored = network.settings.get("data", {})
    if "class_path" in stored and not typed_data(given):
        raise expected("images to score", f"`{network.path}`, whose data are another class's", "give `--data.source`")
    kept = {} if "class_path" in stored else {name: value for name, value in stored.items() if name in known}
    return CIFAR10DataModule(**(kept | {"predict_path": None, "num_workers": 0} | given.data.as_dict()))


def batches(
    data: CIFAR10DataModule, split: Literal["val", "test"], limit: int | None = None
) -> Iterator[tuple[Tensor, Tensor]]:
    """Go through the images of a split, always in the same order.

    Args:
        data: Where they come from.
        split: Validation images, held back from training, or the test set.
        limit: How many images at most.

    Yields:
        `images (N, 3, 32, 32) float32`, normalised, and `labels (N,) int64`.

    Raises:
        InputError: If they are not there and cannot be made.
    """
    data.prepare_data()
    data.setup("validate" if split == "val" else "test")
    left = limit
    for batch in data.val_dataloader() if split == "val" else data.test_dataloader():
        images, labels = data.on_after_batch_transfer(batch, 0)
        yield images[:left], labels[:left]
        if left is not None and (left := left - len(labels)) <= 0:
            return


def accuracy(forward: Callable[[Tensor], Tensor], images: Iterable[tuple[Tensor, Tensor]]) -> Score:
    """Score a network.

    Args:
        forward: From images to logits, (N, classes).
        images: Batches of images and labels.

    Raises:
        InputError: If the network is not one for such images.
    """
    right = total = 0
    with torch.inference_mode():
        for batch, labels in images:
            right += _right(forward, batch, labels)
            total += len(labels)
    return Score(right, total)


def _right(forward: Callable[[Tensor], Tensor], images: Tensor, labels: Tensor) -> int:
    try:
        return int((forward(images).argmax(1) == labels).sum())
    except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
        if describe_failure(error) is not None:  # a signal came meanwhile, or there is no memory left
            raise
        raise expected(
            f"a network that gives logits for images of shape {tuple(images.shape[1:])}",
            f"{type(error).__name__} ({' '.join(str(error).split())[:200].rstrip('.')})",
            "score it where its own images are",
        ) from error
