"""The data module gives each task its own images, and nothing else."""

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image

from lit_prune.data import CIFAR10DataModule, arrays, synthetic
from lit_prune.data.augment import normalise
from lit_prune.data.loader import Batch
from lit_prune.errors import InputError

QUIET: dict[str, Any] = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}


@pytest.fixture
def data_dir(fake_cifar10, tmp_path):
    """A data folder in which the fake CIFAR-10 lies ready."""
    (tmp_path / fake_cifar10.name).symlink_to(fake_cifar10)
    return tmp_path


def make(data_dir, **arguments):
    return CIFAR10DataModule(data_dir, **{"val_size": 20, "batch_size": 8, "eval_batch_size": 4, **arguments})


def ready(data_dir, stage="fit", **arguments):
    module = make(data_dir, **arguments)
    module.prepare_data()
    module.setup(stage)
    return module


def pictures(loader):
    """The images that a loader hands out, each as its bytes, in order."""
    return [image.numpy().tobytes() for batch in loader for image in batch.images]


def labels(loader):
    return torch.cat([batch.labels for batch in loader]).tolist()


def refused(sentence, **arguments):
    with pytest.raises(InputError) as error:
        CIFAR10DataModule(**arguments)
    assert str(error.value) == sentence


def test_training_and_validation_part_the_training_set(data_dir):
    module = ready(data_dir)
    train, val = pictures(module.train_dataloader()), pictures(module.val_dataloader())
    original = [image.tobytes() for image in arrays.open_split(data_dir, "train").images]
    assert sorted(train + val) == sorted(original)
    assert np.bincount(labels(module.val_dataloader())).tolist() == [2] * 10
    assert np.bincount(labels(module.train_dataloader())).tolist() == [3] * 10


def test_the_split_depends_on_its_own_seed_alone(data_dir):
    val = pictures(ready(data_dir).val_dataloader())
    assert pictures(ready(data_dir, seed=99, limit_train=10, batch_size=3).val_dataloader()) == val
    assert pictures(ready(data_dir, "validate").val_dataloader()) == val
    assert pictures(ready(data_dir, split_seed=1).val_dataloader()) != val


def test_smaller_training_sets_are_balanced_parts_of_larger_ones(data_dir):
    sets = []
    for size in (2, 10, 15, 30):
        loader = ready(data_dir, limit_train=size).train_dataloader()
        sets.append(set(pictures(loader)))
        counts = np.bincount(labels(loader), minlength=10)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_each_task_opens_its_own_part_only(data_dir, monkeypatch):
    make(data_dir).prepare_data()
    opened, really_open = [], arrays.open_split

    def note(folder, split):
        opened.append(split)
        return really_open(folder, split)

    monkeypatch.setattr(arrays, "open_split", note)
    for stage, wanted in {"fit": "train", "validate": "train", "test": "test", "predict": "test"}.items():
        opened.clear()
        make(data_dir).setup(stage)
        assert opened == [wanted]


def test_a_damaged_test_set_does_not_concern_training(data_dir):
    module = ready(data_dir)
    (data_dir / "cifar10-arrays" / "test_images.npy").write_bytes(b"")
    module.setup("fit")
    module.setup("validate")
    with pytest.raises(InputError, match=r"test_images\.npy' with the SHA-256 .*, but got a file that is no complete"):
        module.setup("test")


def test_the_test_set_is_handed_out_whole_and_in_order(data_dir):
    module = ready(data_dir, "test")
    split = arrays.open_split(data_dir, "test")
    assert pictures(module.test_dataloader()) == [image.tobytes() for image in split.images]
    assert labels(module.test_dataloader()) == split.labels.tolist()


def test_a_loader_without_its_setup_says_so(data_dir):
    with pytest.raises(InputError) as error:
        make(data_dir).test_dataloader()
    assert str(error.value) == (
        "Expected `setup('test')` to be called first, but got no call. HINT: a Trainer does so by itself."
    )


def test_only_training_batches_are_augmented(data_dir):
    module = ready(data_dir, augment="standard")
    for loader, augmented in ((module.train_dataloader(), True), (module.val_dataloader(), False)):
        batch = next(iter(loader))
        images, found = module.on_after_batch_transfer(batch, 0)
        assert torch.equal(found, batch.labels)
        assert torch.equal(images, normalise(batch.images)) is not augmented
        assert (images.dtype, images.shape[1:]) == (torch.float32, (3, 32, 32))
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_what_is_no_batch_of_ours_passes_unchanged(data_dir):
    example = torch.rand(2, 3, 32, 32)
    assert make(data_dir).on_after_batch_transfer(example, 0) is example


class Probe(LightningModule):
    """Keeps what reaches its steps."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3072, 10)
        self.seen = []
        self.trained = []

    def training_step(self, batch):
        images, found = batch
        self.seen.append(images)
        self.trained.append(images)
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), found)

    def validation_step(self, batch):
        self.seen.append(batch[0])

    def test_step(self, batch):
        self.seen.append(batch[0])

    def predict_step(self, batch):
        assert isinstance(batch, torch.Tensor)
        return batch

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01)


def predict(module):
    return Trainer(**QUIET).predict(Probe(), datamodule=module)


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("64-true", torch.float64)])
def test_images_come_in_the_trainers_precision(data_dir, precision, dtype):
    probe, trainer = Probe(), Trainer(max_epochs=1, precision=precision, **QUIET)
    trainer.fit(probe, datamodule=make(data_dir))
    trainer.test(probe, datamodule=make(data_dir), verbose=False)
    assert probe.seen
    assert {images.dtype for images in probe.seen} == {dtype}


def test_overfitting_repeats_the_same_images(data_dir):
    probe = Probe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit", UserWarning)  # Lightning's, and true
        trainer = Trainer(max_epochs=2, overfit_batches=2, **QUIET)
        trainer.fit(probe, datamodule=make(data_dir, augment="none"))
    assert len(probe.trained) == 4
    assert torch.equal(torch.cat(probe.trained[:2]), torch.cat(probe.trained[2:]))


def test_fit_does_not_need_the_test_set_nor_test_the_training_set(data_dir):
    make(data_dir).prepare_data()
    (data_dir / "cifar-10-python.tar.gz").unlink()
    files = {path.stem: path for path in (data_dir / "cifar10-arrays").iterdir()}
    held_back = files["test_images"].read_bytes()
    files["test_images"].unlink()
    Trainer(max_epochs=1, **QUIET).fit(Probe(), datamodule=make(data_dir))
    files["test_images"].write_bytes(held_back)
    files["train_images"].unlink()
    Trainer(**QUIET).test(Probe(), datamodule=make(data_dir), verbose=False)


def test_predictions_of_the_test_set_are_named(data_dir):
    module = make(data_dir)
    found = predict(module)
    assert torch.equal(torch.cat(found), normalise(torch.from_numpy(arrays.open_split(data_dir, "test").images.copy())))
    assert module.predict_names == [f"test/{number:05d}" for number in range(10)]


def test_own_images_need_no_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "open_split", lambda *_: pytest.fail("CIFAR-10 was opened"))
    pixels = np.random.default_rng().integers(0, 256, (5, 32, 32, 3), np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(tmp_path / f"{9 - number}.png")
    module = CIFAR10DataModule(tmp_path / "none", predict_path=tmp_path, eval_batch_size=2)
    found = predict(module)
    assert [len(batch) for batch in found] == [2, 2, 1]
    assert torch.equal(torch.cat(found), normalise(torch.from_numpy(pixels[::-1].copy())))
    assert module.predict_names == ["5.png", "6.png", "7.png", "8.png", "9.png"]
    assert not (tmp_path / "none").exists()


def test_predict_names_are_those_of_this_process(data_dir, monkeypatch):
    names = []
    for rank in range(3):
        module = make(data_dir)
        sharing = {"replicas": 3, "rank": rank, "num_workers": 0, "pin_memory": False}
        monkeypatch.setattr(module, "_loading", lambda sharing=sharing: sharing)
        module.prepare_data()
        module.setup("predict")
        assert len(module.predict_names) == len(pictures(module.predict_dataloader()))
        names += module.predict_names
    assert sorted(names) == [f"test/{number:05d}" for number in range(10)]


def test_the_synthetic_source_needs_no_folder(tmp_path):
    module = CIFAR10DataModule(tmp_path / "none", source="synthetic", val_size=1000, limit_train=100)
    module.prepare_data()
    module.setup("fit")
    assert (len(module.train_dataloader()), len(pictures(module.val_dataloader()))) == (1, 1000)
    assert module.class_names == synthetic.CLASS_NAMES
    assert not (tmp_path / "none").exists()


def test_class_names_are_cifars():
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert CIFAR10DataModule().class_names == tuple(names.split())


def test_hyper_parameters_are_plain_values(tmp_path):
    module = CIFAR10DataModule(tmp_path, predict_path=tmp_path)
    assert module.hparams["data_dir"] == module.hparams["predict_path"] == str(tmp_path)
    assert str(module).startswith(f"CIFAR10DataModule(data_dir='{tmp_path}', source='cifar10', batch_size=128, ")


def order_of(module):
    module.setup("fit")
    return pictures(module.train_dataloader())


def test_the_seed_is_that_of_seed_everything_unless_given(data_dir, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    module = ready(data_dir)
    unseeded = order_of(module)
    assert order_of(make(data_dir, seed=0)) == unseeded
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    seeded = order_of(module)
    assert seeded != unseeded
    assert order_of(make(data_dir, seed=7)) == seeded
    assert order_of(make(data_dir, seed=0)) == unseeded


def test_a_checkpoints_seed_is_adopted_or_confirmed(data_dir):
    saved = ready(data_dir, seed=5)
    adopting = ready(data_dir)
    adopting.load_state_dict(saved.state_dict())
    assert pictures(adopting.train_dataloader()) == pictures(saved.train_dataloader())
    ready(data_dir, seed=5).load_state_dict(saved.state_dict())
    with pytest.raises(InputError) as error:
        ready(data_dir, seed=6).load_state_dict(saved.state_dict())
    assert str(error.value) == (
        "Expected the data's `seed` to be the checkpoint's 5 when training is resumed, but got 6. "
        "HINT: leave `--data.seed` out, or start anew from the checkpoint's weights."
    )


@pytest.mark.parametrize(
    ("name", "value", "limits", "hint"),
    [
        ("val_size", 0, "in [1, 49998]", "leave some of the 50000 training images to train on"),
        ("val_size", -5, "in [1, 49998]", "leave some of the 50000 training images to train on"),
        ("val_size", 50_000, "in [1, 49998]", "leave some of the 50000 training images to train on"),
        ("val_size", True, "in [1, 49998]", "leave some of the 50000 training images to train on"),
        ("val_size", 0.1, "in [1, 49998]", "leave some of the 50000 training images to train on"),
        ("batch_size", 0, "of at least 2", "batch norm cannot average over fewer than two images"),
        ("batch_size", 1, "of at least 2", "batch norm cannot average over fewer than two images"),
        ("eval_batch_size", 0, "of at least 1", "give the number of images per batch"),
        ("split_seed", -1, "in [0, 4294967295]", "give any number in this range"),
        ("split_seed", None, "in [0, 4294967295]", "give any number in this range"),
        ("seed", 2**32, "in [0, 4294967295]", "give any number in this range, or null for `seed_everything`'s"),
        ("limit_train", 1, "in [2, 45000]", "45000 training images are left beside `val_size`"),
        ("limit_train", 45_001, "in [2, 45000]", "45000 training images are left beside `val_size`"),
        ("num_workers", -1, "of at least 0", "give 0 to read batches in the main process"),
    ],
)
def test_numbers_are_checked_at_once(name, value, limits, hint):
    refused(f"Expected `{name}` to be a whole number {limits}, but got {value!r}. HINT: {hint}.", **{name: value})


def test_choices_are_checked_at_once():
    refused(
        "Expected `source` to be one of 'cifar10', 'synthetic', but got mnist. HINT: choose one of these.",
        source="mnist",
    )
    refused(
        "Expected `augment` to be one of 'none', 'flip', 'standard', but got None. HINT: choose one of these.",
        augment=None,
    )


def test_the_synthetic_set_is_smaller():
    refused(
        "Expected `val_size` to be a whole number in [1, 9998], but got 20000. "
        "HINT: leave some of the 10000 training images to train on.",
        source="synthetic",
        val_size=20_000,
    )


def test_a_batch_survives_the_way_to_the_device(data_dir):
    batch = next(iter(ready(data_dir).train_dataloader()))
    moved = make(data_dir).transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert isinstance(moved, Batch)
    assert moved.key == batch.key


def test_the_real_thing(cifar10_dir):
    seed_everything(3, verbose=False)
    module = CIFAR10DataModule(cifar10_dir)
    module.prepare_data()
    module.setup("fit")
    train, val = module.train_dataloader(), module.val_dataloader()
    assert (len(train), len(val)) == (352, 10)
    assert np.bincount(labels(val)).tolist() == [500] * 10
    assert not set(pictures(train)) & set(pictures(val))
