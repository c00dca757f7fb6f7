"""The data module: which images are for what, and what happens to a batch on its way to the network."""

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from lightning.pytorch import LightningDataModule
from numpy.typing import NDArray
from torch import Tensor

from lit_prune.data import arrays, synthetic
from lit_prune.data.arrays import Split, SplitName
from lit_prune.data.augment import Augmentation, augment, normalise
from lit_prune.data.randomness import balanced_order
from lit_prune.data.images import read_images
from lit_prune.data.loader import Batch, Images, Loader, TrainLoader
from lit_prune.errors import check_choice, expected

__all__ = ["CIFAR10DataModule"]

Source = Literal["cifar10", "synthetic"]

_SEEDS = 2**32
# of Linux, macOS and Windows
_LONGEST_NAME = 255
_SHOWN = 80  # characters of a path that is wrong
# Which part of the data set each of the Trainer's tasks reads. Predictions read the user's images, if there are any.
_SPLITS: dict[str, SplitName] = {"fit": "train", "validate": "train", "test": "test", "predict": "test"}


class CIFAR10DataModule(LightningDataModule):
    """CIFAR-10, or a synthetic stand-in, for training, validation, test and predictions.

    Validation images are taken out of the training set, class by class, by `split_seed` alone; the test set is read by
    `test`, and by `predict` without a path, and by nothing else. The order of the training images depends on (seed,
    epoch) and their augmentation on (seed, epoch, batch, rank), so a resumed run sees what it would have seen, from
    within an epoch too. Under a distributed strategy the module shares the images between the processes itself:
    training in equal shares without duplicates, everything else exactly (see `lit_prune.data.loader`).

    Batches reach the module's steps as `(images, labels)`: `images (B, 3, 32, 32)`, normalised, `channels_last` in
    memory, in the Trainer's precision (float32 as a rule), `labels (B,) int64`. `predict_step` gets `images` alone.

    Args:
        data_dir: Folder that holds, or shall hold, `cifar10-arrays`.
        source: `"cifar10"`, downloaded if need be; or `"synthetic"`, drawn on the spot without file or network.
        batch_size: Training images per batch and device, at least 2. A last batch of one image, over which batch norm
            could not average, joins the batch before it.
        eval_batch_size: Images per batch and device in validation, test and predictions.
        val_size: How many training images are held back for validation, class-balanced.
        split_seed: Decides which ones, and which ones `limit_train` keeps.
        limit_train: Train on this many images only, class-balanced; smaller sets are parts of larger ones.
        augment: `"none"`; `"flip"`: random mirroring; `"standard"`: mirroring and shifts by up to 4 pixels.
        seed: Decides order and augmentation; None takes the seed of `seed_everything`, or else 0.
        predict_path: Image file, or folder of images, to predict; None predicts the test set.
        num_workers: Processes that read batches ahead. 0 is the fastest for data in memory or on a local disk.

    Raises:
        InputError: If an argument cannot be used.
    """

    def __init__(
        self,
        data_dir: str | Path = "data",
        source: Source = "cifar10",
        batch_size: int = 128,
        eval_batch_size: int = 512,
        val_size: int = 5000,
        split_seed: int = 0,
        limit_train: int | None = None,
        augment: Augmentation = "flip",
        seed: int | None = None,
        predict_path: str | Path | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        # Strings, because checkpoints are loaded with `weights_only=True`, which refuses paths.
        data_dir = str(data_dir)
        predict_path = None if predict_path is None else str(predict_path)
        _check_path("data_dir", data_dir)
        if predict_path is not None:
            _check_path("predict_path", predict_path)
        check_choice("source", source, get_args(Source))
        check_choice("augment", augment, get_args(Augmentation))
        total = (arrays if source == "cifar10" else synthetic).SIZES["train"]
        # One image of all must be left over to train on, and batch norm needs two.
        _check_whole("val_size", val_size, 1, total - 2, f"leave some of the {total} training images to train on")
        _check_whole("batch_size", batch_size, 2, None, "batch norm cannot average over fewer than two images")
        _check_whole("eval_batch_size", eval_batch_size, 1, None, "give the number of images per batch")
        _check_whole("split_seed", split_seed, 0, _SEEDS - 1, "give any number in this range")
        if limit_train is not None:
            left = total - val_size
            _check_whole("limit_train", limit_train, 2, left, f"{left} training images are left beside `val_size`")
        if seed is not None:
            _check_whole("seed", seed, 0, _SEEDS - 1, "give any number in this range, or null for `seed_everything`'s")
        _check_whole("num_workers", num_workers, 0, None, "give 0 to read batches in the main process")
        self.save_hyperparameters()

        self.data_dir = Path(data_dir).expanduser()
        self.source = source
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.val_size = val_size
        self.split_seed = split_seed
        self.limit_train = limit_train
        self.augment = augment
        self.seed = seed
        self.predict_path = None if predict_path is None else Path(predict_path).expanduser()
        self.num_workers = num_workers
        # Fewer images than processes is odd, but predicting a single one on two devices must not fail.
        self.allow_zero_length_dataloader_with_multiple_devices = True

        self._seed: int | None = None
        self._train: Images | None = None
        self._val: Images | None = None
        self._test: Images | None = None
        self._predict: Images | None = None
        self._predict_names: list[str] = []

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the ten classes, in the order of their labels."""
        return arrays.CLASS_NAMES if self.source == "cifar10" else synthetic.CLASS_NAMES

    @property
    def predict_names(self) -> list[str]:
        """The names of the images that `predict` goes through in this process, in its order.

        They are file names, or "test/00042" for the test set's image 42.

        Raises:
            InputError: If `setup("predict")` was not called.
        """
        share = self._eval_loader(self._ready(self._predict, "predict")).share
        return [self._predict_names[row] for row in share]

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.hparams.items())})"

    def prepare_data(self) -> None:
        """Make sure that CIFAR-10's arrays are in `data_dir`, as far as the Trainer's task needs them.

        Raises:
            InputError: If they are not there and cannot be made.
        """
        if self.source != "cifar10":
            return
        tasks = list(_SPLITS) if self.trainer is None or self.trainer.state.fn is None else [self.trainer.state.fn]
        needed = {_SPLITS[task] for task in tasks if task != "predict" or self.predict_path is None}
        arrays.prepare(self.data_dir, sorted(needed))

    def setup(self, stage: str) -> None:
        """Open what one task needs and nothing more.

        Args:
            stage: `"fit"`, `"validate"`, `"test"` or `"predict"`.

        Raises:
            InputError: If the arrays are damaged or missing, or the images to predict cannot be read.
        """
        if stage == "predict":
            self._setup_predict()
        elif stage == "test":
            self._test = Images(*self._open("test"))
        else:
            split = self._open("train")
            order = balanced_order(split.labels, self.split_seed)
            self._val = Images(*split, np.sort(order[: self.val_size]))
            if stage == "fit":
                self._train = Images(*split, np.sort(self._training_part(order)))
                self._seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def train_dataloader(self) -> TrainLoader:
        """Load the training part, shuffled anew each epoch, unless the Trainer is told to overfit some batches."""
        images = self._ready(self._train, "fit")
        assert self._seed is not None  # noqa: S101 - set beside the images
        shuffle = self.trainer is None or self.trainer.overfit_batches == 0  # type: ignore[attr-defined]
        return TrainLoader(images, self.batch_size, self._seed, shuffle=shuffle, **self._loading())

    def val_dataloader(self) -> Loader:
        """Load the validation part."""
        return self._eval_loader(self._ready(self._val, "validate"))

    def test_dataloader(self) -> Loader:
        """Load the test set."""
        return self._eval_loader(self._ready(self._test, "test"))

    def predict_dataloader(self) -> Loader:
        """Load the images to predict."""
        return self._eval_loader(self._ready(self._predict, "predict"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment a training batch, and normalise any batch, on the device that it is on.

        Args:
            batch: A `Batch` from one of the loaders; anything else (an example input) is returned as it is.
            dataloader_idx: Not used.

        Returns:
            `(images, labels)`, or `images` alone if there are no labels.
        """
        if not isinstance(batch, Batch):
            return batch
        pixels = batch.images if batch.key is None else augment(batch.images, self.augment, batch.key)
        images: Tensor = normalise(pixels)
        if self.trainer is not None:
            # Lightning converts inputs before the transfer, when the images are still bytes.
            images = self.trainer.precision_plugin.convert_input(images)
        return images if batch.labels is None else (images, batch.labels)

    def state_dict(self) -> dict[str, Any]:
        """Keep the seed that order and augmentation depend on."""
        return {} if self._seed is None else {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the checkpoint's seed when training is resumed.

        Args:
            state_dict: What `state_dict` returned.

        Raises:
            InputError: If another seed was given explicitly.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        if self.seed is not None and self.seed != state_dict["seed"]:
            raise expected(
                f"the data's `seed` to be the checkpoint's {state_dict['seed']} when training is resumed",
                self.seed,
                "leave `--data.seed` out, or start anew from the checkpoint's weights",
            )
        self._seed = state_dict["seed"]

    def _open(self, split: SplitName) -> Split:
        return synthetic.draw_split(split) if self.source == "synthetic" else arrays.open_split(self.data_dir, split)

    def _training_part(self, order: NDArray[np.int64]) -> NDArray[np.int64]:
        rest = order[self.val_size :]
        return rest if self.limit_train is None else rest[: self.limit_train]

    def _setup_predict(self) -> None:
        if self.predict_path is None:
            images = self._open("test").images
            self._predict_names = [f"test/{row:05d}" for row in range(len(images))]
        else:
            images, self._predict_names = read_images(self.predict_path)
        self._predict = Images(images)

    def _ready(self, images: Images | None, stage: str) -> Images:
        if images is None:
            raise expected(f"`setup({stage!r})` to be called first", "no call", "a Trainer does so by itself")
        return images

    def _eval_loader(self, images: Images) -> Loader:
        return Loader(images, self.eval_batch_size, **self._loading())

    def _loading(self) -> dict[str, Any]:
        """How every loader of this process loads."""
        sharing = {} if self.trainer is None else self.trainer.distributed_sampler_kwargs or {}
        return {
            "replicas": sharing.get("num_replicas", 1),
            "rank": sharing.get("rank", 0),
            "num_workers": self.num_workers,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
        }


def _check_path(name: str, value: str) -> None:
    """Refuse what no system takes, which would otherwise be found out in the middle of the work."""
    shown = ascii(value if len(value) <= _SHOWN else f"{value[:_SHOWN]}...")
    if not value or "\0" in value:
        raise expected(f"`{name}` to be a path", shown, "leave it out for the default")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in Path(value).parts):
        what = f"`{name}` to be a path whose names have at most {_LONGEST_NAME} bytes each"
        raise expected(what, shown, "check the path")


def _check_whole(name: str, value: Any, low: int, high: int | None, hint: str) -> None:
    """Refuse what is not a whole number in [low, high]; True and 3.0 are none."""
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        limits = f"of at least {low}" if high is None else f"in [{low}, {high}]"
        raise expected(f"`{name}` to be a whole number {limits}", value, hint)
