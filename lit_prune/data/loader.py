"""Loaders that hand out whole batches, resume within an epoch and share the images between processes.

They are plain iterables around torch's DataLoader. Lightning replaces the sampler of a DataLoader for distributed runs
and for predictions, duplicating or re-ordering images; it leaves other iterables alone.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_prune.data.randomness import Purpose, permutation
from lit_prune.errors import expected

__all__ = ["Batch", "Images", "Loader", "Request", "TrainLoader"]


class Request(NamedTuple):
    """Which images make a batch, `(B,) int64`, and the key of its random draws if it is to be augmented."""

    rows: NDArray[np.int64]
    key: tuple[int, ...] | None = None


class Batch(NamedTuple):
    """A batch as it is sent to the device.

    Attributes:
        images: `(B, 32, 32, 3) uint8`.
        labels: `(B,) int64`, or None for images without labels.
        key: (seed, epoch, batch, rank) of a training batch, None otherwise.
    """

    images: Tensor
    labels: Tensor | None
    key: tuple[int, ...] | None


class Images(Dataset[Batch]):
    """Images, and perhaps their labels, that are read a whole batch at a time.

    Args:
        images: `(N, 32, 32, 3) uint8`, possibly memory-mapped.
        labels: `(N,) int64` or None.
        subset: `(M,) int64`, which of them to use, in this order; None means all.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        labels: NDArray[np.int64] | None = None,
        subset: NDArray[np.int64] | None = None,
    ) -> None:
        self.images = images
        self.labels = labels
        self.subset = np.arange(len(images)) if subset is None else subset

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, request: Request) -> Batch:
        rows = self.subset[request.rows]
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch(torch.from_numpy(self.images[rows]), labels, request.key)


class Loader:
    """Hands out each image once, in order: for validation, test and predictions.

    Process `rank` of `replicas` gets images `rank`, `rank + replicas`, ...: no image twice, none left out, so shares
    may differ by one image.

    Args:
        images: What to load.
        batch_size: Images per batch and process.
        replicas: How many processes share the images.
        rank: Which of them this is.
        num_workers: Processes that read batches ahead; 0 reads them in this one.
        pin_memory: Whether batches come in page-locked memory, for faster copies to a GPU.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        replicas: int = 1,
        rank: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
    ) -> None:
        self.images = images
        self.batch_size = batch_size
        self.replicas = replicas
        self.rank = rank
        self.num_workers = num_workers
        self.pin_memory = pin_memory

    def __len__(self) -> int:
        return len(self._starts(len(self.share)))

    def __iter__(self) -> Iterator[Batch]:
        return self._load(self._cut(self.share, None))

    @property
    def share(self) -> NDArray[np.int64]:
        """The images of this process, `(M,) int64`, in order."""
        return np.arange(self.rank, len(self.images), self.replicas)

    def _starts(self, count: int) -> range:
        return range(0, count, self.batch_size)

    def _cut(self, rows: NDArray[np.int64], key: tuple[int, int] | None) -> list[Request]:
        starts = self._starts(len(rows))
        parts = np.split(rows, starts[1:]) if starts else []
        return [Request(part, None if key is None else (*key, number, self.rank)) for number, part in enumerate(parts)]

    def _load(self, requests: Sequence[Request]) -> Iterator[Batch]:
        yield from DataLoader(
            self.images,
            sampler=requests,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.pin_memory,
            generator=torch.Generator(),  # its own: each DataLoader iterator draws a number, from torch's global state
        )


def _unchanged(batch: Any) -> Any:
    return batch


class TrainLoader(Loader):
    """Hands out the images in a new order each epoch, and goes on where a checkpoint was written.

    The order depends on (seed, epoch) alone. Process `rank` of `replicas` takes every `replicas`-th image of it, so
    that all processes together see in each step what one process would see with a batch `replicas` times as large. All
    get equally many: the last `len(images) % replicas` images of an epoch's order rest for this epoch.
    A last batch of one image, over which batch norm could not average, joins the batch before it.

    Args:
        images: What to load; at least two images per process.
        batch_size: Images per batch and process, at least 2.
        seed: What the order and the augmentation depend on, besides the epoch.
        replicas: How many processes share the images.
        rank: Which of them this is.
        num_workers: Processes that read batches ahead; 0 reads them in this one.
        pin_memory: Whether batches come in page-locked memory.
        shuffle: Whether the order changes at all.

    Raises:
        InputError: If a process would have to train on a single image.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        replicas: int = 1,
        rank: int = 0,
        num_workers: int = 0,
        pin_memory: bool = False,
        shuffle: bool = True,
    ) -> None:
        super().__init__(images, batch_size, replicas, rank, num_workers, pin_memory)
        if len(images) < 2 * replicas:
            raise expected(
                f"at least {2 * replicas} training images for {replicas} process(es)",
                len(images),
                "train on more images or on fewer devices",
            )
        self.seed = seed
        self.shuffle = shuffle
        self.epoch = 0
        self._delivered = {"epoch": 0, "batch": 0}
        self._resume: dict[str, Any] | None = None

    def __iter__(self) -> Iterator[Batch]:
        # The body of a generator waits for the first batch to be asked for. That matters: Lightning calls `iter` before
        # it has told a resumed run's epoch, and a DataLoader with workers would begin with the wrong one at once.
        epoch, start = self.epoch, self._first_batch()
        order = permutation(len(self.images), Purpose.SHUFFLE, self.seed, epoch) if self.shuffle else None
        requests = self._cut(self.share if order is None else order[self.share], (self.seed, epoch))
        for number, batch in enumerate(self._load(requests[start:]), start + 1):
            self._delivered = {"epoch": epoch, "batch": number}
            yield batch

    @property
    def share(self) -> NDArray[np.int64]:
        """The places in the epoch's order that this process takes, `(M,) int64`; M is the same for all processes."""
        return super().share[: len(self.images) // self.replicas]

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself: Lightning looks for `set_epoch` here."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration follows."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Say how many batches of which epoch were handed out, and of what kind of epoch."""
        return {**self._delivered, "plan": self._plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on after the batches that `state` counts, if the next iteration is of the same epoch."""
        self._delivered = {"epoch": state["epoch"], "batch": state["batch"]}
        self._resume = state

    @property
    def _plan(self) -> dict[str, int]:
        """What the content of an epoch's batches depends on."""
        return {
            "images": len(self.images),
            "batch_size": self.batch_size,
            "seed": self.seed,
            "processes": self.replicas,
        }

    def _first_batch(self) -> int:
        state, self._resume = self._resume, None
        if state is None or state["epoch"] != self.epoch or state["batch"] == 0:
            return 0
        if state["plan"] != self._plan:
            raise expected(
                f"the checkpoint's {state['plan']} to go on after batch {state['batch']} of epoch {state['epoch']}",
                self._plan,
                "keep these as they were, or resume from a checkpoint that was written at an epoch's end",
            )
        return int(state["batch"])

    def _starts(self, count: int) -> range:
        starts = super()._starts(count)
        return starts[:-1] if count % self.batch_size == 1 else starts
