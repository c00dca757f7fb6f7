"""`CIFAR10DataModule`: images for training, validation, test and predictions."""

import os
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from lightning.pytorch import LightningDataModule
from torch import Tensor

from lit_prune.data import cifar10, synthetic
from lit_prune.data.augment import Augmentation, augment, normalise
from lit_prune.data.cifar10 import Split, SplitName
from lit_prune.data.images import read_images
from lit_prune.data.loader import Batch, Images, Loader, TrainLoader
from lit_prune.data.randomness import balanced_order
from lit_prune.errors import check_choice, check_integer, expected, shorten

Source = Literal["cifar10", "synthetic"]

_MAX_SEED = 2**32 - 1
_LONGEST_NAME = 255  # largest number of bytes of a file name
# split that each of the Trainer's tasks loads; `predict` loads the images of `predict_path` instead, if that is set
_SPLITS: dict[str, SplitName] = {"fit": "train", "validate": "train", "test": "test", "predict": "test"}


class CIFAR10DataModule(LightningDataModule):
    """CIFAR-10 or synthetic images for training, validation, test and predictions.

    Validation images are chosen from the training set with the random seed `split_seed`. The test set is loaded only by
    `test`, and by `predict` without a `predict_path`. The order of training images depends only on (seed, epoch) and
    their augmentation only on (seed, epoch, batch, rank), so a resumed run trains on the same batches as an
    uninterrupted one, even if it resumes in the middle of an epoch. Under a distributed strategy, the module divides
    the images between processes itself (see `lit_prune.data.loader`).

    Training, validation and test steps receive batches `(images, labels)`: normalised `images (B, 3, 32, 32)` in
    `channels_last` memory layout and in the Trainer's precision, and `labels (B,) int64`. `predict_step` receives only
    `images`.

    Args:
        data_dir: Folder whose subfolder `cifar10-arrays` caches CIFAR-10. It is created if needed.
        source: "cifar10", which is downloaded if needed, or "synthetic", generated images of ten shapes.
        batch_size: Training images per batch and device, at least 2. A single image left over joins the last batch.
        eval_batch_size: Images per batch and device in validation, test and predictions.
        val_size: Number of training images held out for validation, class-balanced.
        split_seed: Random seed used to choose the validation images and the `limit_train` images to train on.
        limit_train: Number of images to train on, class-balanced; a smaller number selects some of the images that a
            larger number selects. None trains on all images that are not held out.
        augment: Augmentation of training images: "none"; "flip", random mirroring; or "standard", random mirroring and
            shifts by up to 4 pixels.
        seed: Random seed for the order and augmentation of training images. None uses the seed of `seed_everything`,
            or 0 if it was not called.
        predict_path: Image file, or folder of images with subfolders, to predict. None predicts the test set.
        num_workers: Number of worker processes that load batches in advance. 0 loads them in the main process, which is
            fastest for data in memory or on a local disk. On a GPU, 0 copies the images to it once, as uint8 (180 MB
            for CIFAR-10), and gathers batches there; with workers, the images stay in host memory.

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
        # stored as strings, because `torch.load(weights_only=True)` does not load `Path` objects
        data_dir = str(data_dir)
        predict_path = None if predict_path is None else str(predict_path)
        _check_path("data_dir", data_dir)
        if predict_path is not None:
            _check_path("predict_path", predict_path)
        check_choice("source", source, get_args(Source))
        check_choice("augment", augment, get_args(Augmentation))
        total = (cifar10 if source == "cifar10" else synthetic).SIZES["train"]
        # training needs two images, because batch norm cannot normalise a batch of one image
        check_integer("val_size", val_size, 1, total - 2, hint=f"leave some of the {total} training images to train on")
        check_integer("batch_size", batch_size, 2, hint="batch norm cannot normalise a batch of one image")
        check_integer("eval_batch_size", eval_batch_size, 1, hint="give the number of images per batch")
        check_integer("split_seed", split_seed, 0, _MAX_SEED, hint="give any number in this range")
        if limit_train is not None:
            left = total - val_size
            check_integer("limit_train", limit_train, 2, left, hint=f"`val_size` leaves {left} training images")
        if seed is not None:
            hint = "give any number in this range, or null to use the seed of `seed_everything`"
            check_integer("seed", seed, 0, _MAX_SEED, hint=hint)
        check_integer("num_workers", num_workers, 0, hint="give 0 to read batches in the main process")
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
        # predicting fewer images than there are devices must not fail
        self.allow_zero_length_dataloader_with_multiple_devices = True

        self._seed: int | None = None
        self._images: dict[str, Images] = {}  # by stage, such as "fit"
        self._predict_names: list[str] = []

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the ten classes, in the order of their labels."""
        return cifar10.CLASS_NAMES if self.source == "cifar10" else synthetic.CLASS_NAMES

    @property
    def predict_names(self) -> list[str]:
        """Names of the images that `predict` loads in this process: file names, or "test/00042" for test image 42.

        Raises:
            InputError: If `setup("predict")` was not called.
        """
        share = self._eval_loader(self._ready("predict")).share
        return [self._predict_names[row] for row in share]

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self.hparams.items())})"

    def prepare_data(self) -> None:
        """Cache in `data_dir` the CIFAR-10 files that the Trainer's task needs.

        Raises:
            InputError: If files are missing or damaged, and CIFAR-10 can neither be found in `data_dir` nor downloaded.
        """
        if self.source != "cifar10":
            return
        tasks = list(_SPLITS) if self.trainer is None or self.trainer.state.fn is None else [self.trainer.state.fn]
        needed = {_SPLITS[task] for task in tasks if task != "predict" or self.predict_path is None}
        cifar10.prepare(self.data_dir, sorted(needed))

    def setup(self, stage: str) -> None:
        """Open the images of one task: "fit", "validate", "test" or "predict".

        Raises:
            InputError: If the cache is damaged or missing, or if images to predict cannot be read.
        """
        if stage == "predict" and self.predict_path is not None:
            images, self._predict_names = read_images(self.predict_path)
            self._images[stage] = Images(images)
        elif stage == "predict":
            images = self._open("test").images
            self._predict_names = [f"test/{row:05d}" for row in range(len(images))]
            self._images[stage] = Images(images)
        elif stage == "test":
            self._images[stage] = Images(*self._open("test"))
        else:
            split = self._open("train")
            order = balanced_order(split.labels, self.split_seed)
            self._images["validate"] = Images(*split, np.sort(order[: self.val_size]))
            if stage == "fit":
                self._images[stage] = Images(*split, np.sort(order[self.val_size :][: self.limit_train]))
                self._seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if self.seed is None else self.seed

    def train_dataloader(self) -> TrainLoader:
        """Load the training images, in a new order each epoch unless the Trainer has `overfit_batches`."""
        images = self._ready("fit")
        assert self._seed is not None  # noqa: S101 - set together with the images
        shuffle = self.trainer is None or self.trainer.overfit_batches == 0  # type: ignore[attr-defined]
        return TrainLoader(images, self.batch_size, self._seed, shuffle=shuffle, **self._loading())

    def val_dataloader(self) -> Loader:
        """Load the validation images."""
        return self._eval_loader(self._ready("validate"))

    def test_dataloader(self) -> Loader:
        """Load the test set."""
        return self._eval_loader(self._ready("test"))

    def predict_dataloader(self) -> Loader:
        """Load the images to predict."""
        return self._eval_loader(self._ready("predict"))

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Augment (in training) and normalise the images of a `Batch` on its device; return other batches unchanged."""
        if not isinstance(batch, Batch):
            return batch
        pixels = batch.images if batch.key is None else augment(batch.images, self.augment, batch.key)
        images: Tensor = normalise(pixels)
        if self.trainer is not None:
            # before the transfer, Lightning converts inputs to the Trainer's precision, but not uint8 images
            images = self.trainer.precision_plugin.convert_input(images)
        return images if batch.labels is None else (images, batch.labels)

    def state_dict(self) -> dict[str, Any]:
        """Return the random seed for the order and augmentation of training images."""
        return {} if self._seed is None else {"seed": self._seed}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the random seed of the checkpoint when training is resumed.

        Raises:
            InputError: If the argument `seed` differs from the checkpoint's seed.
        """
        if self.trainer is not None and self.trainer.state.fn != "fit":
            return
        if self.seed is not None and self.seed != state_dict["seed"]:
            raise expected(
                f"the data's `seed` to be the checkpoint's {state_dict['seed']} when training is resumed",
                self.seed,
                "leave out `--data.seed`, or start a new run from the checkpoint's weights with `--model.init_from`",
            )
        self._seed = state_dict["seed"]

    def _open(self, split: SplitName) -> Split:
        return synthetic.draw_split(split) if self.source == "synthetic" else cifar10.open_split(self.data_dir, split)

    def _ready(self, stage: str) -> Images:
        if stage not in self._images:
            raise expected(f"a call of `setup({stage!r})` first", "none", "a Trainer calls it automatically")
        return self._images[stage]

    def _eval_loader(self, images: Images) -> Loader:
        return Loader(images, self.eval_batch_size, **self._loading())

    def _loading(self) -> dict[str, Any]:
        """Return the arguments that all loaders of this process share."""
        sharing = {} if self.trainer is None else self.trainer.distributed_sampler_kwargs or {}
        device = None if self.trainer is None else self.trainer.strategy.root_device
        return {
            "replicas": sharing.get("num_replicas", 1),
            "rank": sharing.get("rank", 0),
            "num_workers": self.num_workers,
            "device": device if device is not None and device.type == "cuda" else None,
        }


def _check_path(name: str, value: str) -> None:
    """Raise an `InputError` for a path that is empty, holds a NUL character, or has a name that is too long."""
    shown = ascii(shorten(value))
    if not value or "\0" in value:
        raise expected(f"`{name}` to be a path", shown, "leave it out for the default")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in Path(value).parts):
        what = f"`{name}` to be a path whose file and folder names have at most {_LONGEST_NAME} bytes"
        raise expected(what, shown, "choose a shorter name")
