"""Measure accuracy on the same images as `lit-prune validate` and `lit-prune test`, or a metric on the user's data."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from inspect import signature
from itertools import islice
from typing import Any

import torch
from jsonargparse import Namespace
from torch import Tensor

from lit_prune.cli.failures import describe_failure
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError, expected, one_line
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.network import Network
from lit_prune.trained.own_data import STAGES, OwnBatches, Split, load_own_batches
from lit_prune.training.custom_classes import find_custom_classes
from lit_prune.training.packages import find_package, import_from

Run = Callable[..., Tensor]


@dataclass(frozen=True)
class Score:
    """Number of images that a network classified correctly, or a metric that it logs itself.

    Attributes:
        right: Number of images for which the logit of the label is the highest; or the metric times `images`.
        images: Total number of images or other samples, at least one.
        metric: Name of the metric; None for accuracy.
    """

    right: float
    images: int
    metric: str | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.images or self.images == 0:
            what = "`images` of at least 1, and `right` from 0 to `images`"
            raise expected(what, f"{self.images} and {self.right}", "evaluate at least one image")

    @property
    def accuracy(self) -> float:
        """Fraction of the images that were classified correctly, or the value of the metric."""
        return self.right / self.images

    def describe(self, split: str) -> str:
        """Say what was measured: "test accuracy on 1,000 images"."""
        if self.metric is None:
            return f"{split} accuracy on {self.images:,} images"
        return f"{self.metric} on {self.images:,} {split} samples"


def find_data_class(argv: Sequence[str]) -> type | None:
    """Return `LightningDataModule` from the Lightning package of the class in `--data`; None if no class is given."""
    path = find_custom_classes(argv)[1]
    return None if path is None else import_from(find_package(path), "LightningDataModule")


def wants_data(options: Namespace) -> bool:
    """Return whether `--data` or any option `--data.NAME` was given."""
    return len(options.data.as_dict()) > 0


def wants_scores(options: Namespace) -> bool:
    """Return whether to measure accuracy: if `--limit`, `--data` or any option `--data.NAME` was given."""
    return wants_data(options) or options.limit is not None


def names_data(options: Namespace) -> bool:
    """Return whether `--data` names a custom data module."""
    return "class_path" in options.data


def make_data(network: Network, options: Namespace) -> CIFAR10DataModule:
    """Build the data module of the run that trained the network, so that it selects the same validation images.

    Options `--data.NAME` replace options of that run.
    """
    stored = network.settings.get("data", {})
    # other data modules may have arguments of the same names, such as `batch_size`
    if "class_path" in stored or not ("source" in stored or isinstance(network.model, LitResNet18)):
        if not wants_data(options):
            what = f"`{network.path}` to come from a run with CIFAR10DataModule"
            hint = "name the data module with `--data module.Class`, or choose images with `--data.source`"
            raise expected(
                what, "one with other data" if "class_path" in stored else "one whose data is not known", hint
            )
        stored = {}
    known = signature(CIFAR10DataModule).parameters
    kept = {name: value for name, value in stored.items() if name in known}
    return CIFAR10DataModule(**(kept | {"predict_path": None, "num_workers": 0} | options.data.as_dict()))


def load_batches(network: Network, options: Namespace, split: Split) -> "OwnBatches | list[tuple[Tensor, Tensor]]":
    """Load the batches of a split: those of the data module that `--data` names, or images of CIFAR-10."""
    if names_data(options):
        return load_own_batches(network, options, split)
    return list(image_batches(make_data(network, options), split, options.limit))


def load_training_batches(network: Network, options: Namespace, count: int, seed: int) -> list[Any]:
    """Load the first `count` batches of the training split, or all if it has fewer.

    `seed` sets the order of CIFAR-10 and synthetic images; a custom data module uses the global random state.
    """
    if names_data(options):
        return load_own_batches(network, options, "train", count).parts[0]
    data = make_data(network, options)
    data.seed = seed
    return list(islice(image_batches(data, "train"), count))


def image_batches(data: CIFAR10DataModule, split: Split, limit: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the first `limit` images of a split, or over all.

    Validation and test images are in the order of the data set; the seed of `data` sets the order of training images.

    Yields:
        `images (N, 3, 32, 32) float32`, normalised (training images also augmented), and `labels (N,) int64`.
    """
    data.prepare_data()
    data.setup(STAGES[split])
    left = limit
    for batch in getattr(data, f"{split}_dataloader")():
        images, labels = data.on_after_batch_transfer(batch, 0)
        yield images[:left], labels[:left]
        if left is not None and (left := left - len(labels)) <= 0:
            return


def score(model: Any, images: Iterable[tuple[Tensor, Tensor]] | OwnBatches) -> Score:
    """Count the images that `model`, a function from images to logits (N, classes), classifies correctly.

    On batches of a custom data module, `model` has to be a LightningModule, whose own metric is measured.

    Raises:
        InputError: If `model` cannot compute logits for these images, or does not log the metric.
    """
    if isinstance(images, OwnBatches):
        name, value = images.measure(model)
        return Score(value * images.samples, images.samples, name)
    right = total = 0
    with torch.inference_mode():
        for batch, labels in images:
            try:
                right += int((model(batch).argmax(1) == labels).sum())
            except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
                if describe_failure(error) is not None:  # not about the images: a signal, or out of memory
                    raise
                raise InputError(
                    f"The network cannot compute logits for images of shape {tuple(batch.shape[1:])}: "
                    f"{type(error).__name__} ({one_line(error)}). Evaluate the network in Python, on images that it "
                    "accepts."
                ) from error
            total += len(labels)
    return Score(right, total)


def score_split(model: Any, network: Network, options: Namespace, split: Split = "test") -> Score:
    """Evaluate `model` on a split of the data set that `network` was trained on, unless `options` choose another."""
    if names_data(options):
        return score(model, load_own_batches(network, options, split))
    return score(model, image_batches(make_data(network, options), split, options.limit))
