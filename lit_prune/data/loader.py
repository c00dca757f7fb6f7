"""Loaders that read whole batches, resume in the middle of an epoch, and divide images between processes.

Images are gathered in host memory or on a GPU that holds all of them; the batches are the same.

The loaders contain a torch `DataLoader` and are not subclasses of it: Lightning replaces the sampler of a `DataLoader`
in distributed runs and for predictions, which would duplicate or reorder images.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from lit_prune.data.augment import send
from lit_prune.data.randomness import Purpose, permutation
from lit_prune.errors import expected


class Request(NamedTuple):
    """Which images a batch has, and how they are augmented; `Images` loads them.

    Attributes:
        rows: Indices into the data set, that is, into `Images.subset`, `(B,) int64`.
        key: Random key of the augmentation: (random seed, epoch, batch, rank). None: no augmentation.
    """

    rows: NDArray[np.int64]
    key: tuple[int, ...] | None = None


class Batch(NamedTuple):
    """A batch before augmentation and normalisation.

    Attributes:
        images: Images, `(B, 32, 32, 3) uint8`.
        labels: Labels, `(B,) int64`, if there are any.
        key: (random seed, epoch, batch, rank) of a training batch; None for other batches.
    """

    images: Tensor
    labels: Tensor | None
    key: tuple[int, ...] | None


class Images(Dataset[Batch]):
    """Dataset that returns the batch of a `Request`.

    Args:
        images: Images, `(N, 32, 32, 3) uint8`; they may be memory-mapped.
        labels: Labels, `(N,) int64`, if there are any.
        subset: Indices of the images to use, `(M,) int64`. None uses all images.
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
        self._resident: dict[torch.device, Batch] = {}

    def __len__(self) -> int:
        return len(self.subset)

    def __getitem__(self, request: Request) -> Batch:
        rows = self.subset[request.rows]
        labels = None if self.labels is None else torch.from_numpy(self.labels[rows])
        return Batch(torch.from_numpy(self.images[rows]), labels, request.key)

    def gather(self, requests: Sequence[Request], device: torch.device) -> Iterator[Batch]:
        """Yield the batches of several requests, gathered on a device, to which all images are copied once."""
        if not requests:
            return
        if device not in self._resident:
            images, labels, _ = self[Request(np.arange(len(self)))]
            self._resident[device] = Batch(images.to(device), None if labels is None else labels.to(device), None)
        images, labels, _ = self._resident[device]
        # copy the indices of all batches at once: a copy for each batch would take longer than a training step on a GPU
        rows = send(np.concatenate([request.rows for request in requests]), device)
        parts = torch.split(rows, [len(request.rows) for request in requests])
        for request, part in zip(requests, parts, strict=True):
            yield Batch(images[part], None if labels is None else labels[part], request.key)


@dataclass(eq=False, repr=False)
class Loader:
    """Loader that loads each image once, in order, for validation, test and predictions.

    Process `rank` of `replicas` loads images `rank`, `rank + replicas`, ..., so some processes may load one image more.

    Args:
        images: Images to load.
        batch_size: Images per batch and process.
        replicas: Number of processes that the images are divided between.
        rank: Index of this process.
        num_workers: Number of worker processes that load batches in advance; 0 loads them in this process.
        device: GPU that will use the batches; None if there is none. Without workers, all images are copied to it, and
            batches are gathered there. With workers, batches are put into page-locked memory, for faster copies.
    """

    images: Images
    batch_size: int
    replicas: int = 1
    rank: int = 0
    num_workers: int = 0
    device: torch.device | None = None

    def __len__(self) -> int:
        return len(self._starts(len(self.share)))

    def __iter__(self) -> Iterator[Batch]:
        return self._load(self._cut(self.share, None))

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Copy the position and the settings; the images, which do not change, are shared."""
        return copy(self)

    @property
    def share(self) -> NDArray[np.int64]:
        """Indices of this process's images, `(M,) int64`, in order."""
        return np.arange(self.rank, len(self.images), self.replicas)

    def _starts(self, count: int) -> range:
        return range(0, count, self.batch_size)

    def _cut(self, rows: NDArray[np.int64], key: tuple[int, int] | None) -> list[Request]:
        starts = self._starts(len(rows))
        parts = np.split(rows, starts[1:]) if starts else []
        return [Request(part, None if key is None else (*key, number, self.rank)) for number, part in enumerate(parts)]

    def _load(self, requests: Sequence[Request]) -> Iterator[Batch]:
        if self.device is not None and self.num_workers == 0:
            yield from self.images.gather(requests, self.device)
            return
        yield from DataLoader(
            self.images,
            sampler=requests,
            batch_size=None,
            num_workers=self.num_workers,
            collate_fn=_unchanged,
            pin_memory=self.device is not None,
            generator=torch.Generator(),  # a DataLoader draws a seed, by default from torch's global generator
        )


def _unchanged(batch: Any) -> Any:
    return batch


class TrainLoader(Loader):
    """Loader of training images in a new order each epoch; it can resume in the middle of an epoch.

    The order depends only on `seed` and the epoch. Process `rank` of `replicas` loads every `replicas`-th image of this
    order, so all processes together load the batches that one process would load with `replicas` times the batch size.
    All processes load the same number of images: in each epoch, the last `len(images) % replicas` images of the order
    are skipped. A last batch of one image, which batch norm cannot normalise, is added to the batch before it.

    `Loader` describes the other arguments.

    Args:
        images: Images to load, at least two per process.
        batch_size: Images per batch and process, at least 2.
        seed: Random seed for the order and the augmentation.
        shuffle: Whether to shuffle images.

    Raises:
        InputError: If there are fewer than two images per process.
    """

    def __init__(
        self,
        images: Images,
        batch_size: int,
        seed: int,
        replicas: int = 1,
        rank: int = 0,
        num_workers: int = 0,
        device: torch.device | None = None,
        shuffle: bool = True,
    ) -> None:
        super().__init__(images, batch_size, replicas, rank, num_workers, device)
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
        # a generator starts when the first batch is requested, not when `iter` is called: Lightning calls `iter` before
        # it sets the epoch of a resumed run
        epoch, start = self.epoch, self._first_batch()
        order = permutation(len(self.images), Purpose.SHUFFLE, self.seed, epoch) if self.shuffle else None
        requests = self._cut(self.share if order is None else order[self.share], (self.seed, epoch))
        for number, batch in enumerate(self._load(requests[start:]), start + 1):
            self._delivered = {"epoch": epoch, "batch": number}
            yield batch

    @property
    def share(self) -> NDArray[np.int64]:
        """Positions in the epoch's order that this process loads, `(M,) int64`; M is the same for all processes."""
        return super().share[: len(self.images) // self.replicas]

    @property
    def sampler(self) -> "TrainLoader":
        """The loader itself: Lightning calls `set_epoch` on the `sampler` of a loader."""
        return self

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        self.epoch = epoch

    def state_dict(self) -> dict[str, Any]:
        """Return the epoch, the number of its batches loaded so far, and the settings that its batches depend on."""
        return {**self._delivered, "plan": self._plan}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Skip the batches loaded before `state` was saved, if the next iteration is in the same epoch."""
        self._delivered = {"epoch": state["epoch"], "batch": state["batch"]}
        self._resume = state

    @property
    def _plan(self) -> dict[str, int]:
        """Settings on which the batches of an epoch depend."""
        sizes = {"images": len(self.images), "batch_size": self.batch_size}
        return {**sizes, "seed": self.seed, "processes": self.replicas}

    def _first_batch(self) -> int:
        state, self._resume = self._resume, None
        if state is None or state["epoch"] != self.epoch or state["batch"] == 0:
            return 0
        if state["plan"] != self._plan:
            where = f"after batch {state['batch']} of epoch {state['epoch']}"
            raise expected(
                f"the checkpoint's data settings {state['plan']} to resume {where}",
                self._plan,
                "use the same settings, or resume from a checkpoint that was written at the end of an epoch",
            )
        return int(state["batch"])

    def _starts(self, count: int) -> range:
        starts = super()._starts(count)
        return starts[:-1] if count % self.batch_size == 1 else starts
