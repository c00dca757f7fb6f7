"""The data module opens for each task its own images and no others."""

import re
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer, seed_everything
from PIL import Image

from lit_prune.data import CIFAR10DataModule, cifar10, synthetic
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
    """A data folder with the cache of the fake CIFAR-10."""
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
    """Return the bytes of each image of a loader, in order."""
    return [image.numpy().tobytes() for batch in loader for image in batch.images]


def labels(loader):
    return torch.cat([batch.labels for batch in loader]).tolist()


def assert_refused(phrase, **arguments):
    with pytest.raises(InputError, match=re.escape(phrase)):
        CIFAR10DataModule(**arguments)


def test_training_and_validation_images_are_the_training_set(data_dir):
    module = ready(data_dir)
    train, val = pictures(module.train_dataloader()), pictures(module.val_dataloader())
    original = [image.tobytes() for image in cifar10.open_split(data_dir, "train").images]
    assert sorted(train + val) == sorted(original)
    assert np.bincount(labels(module.val_dataloader())).tolist() == [2] * 10
    assert np.bincount(labels(module.train_dataloader())).tolist() == [3] * 10


def test_the_split_depends_only_on_split_seed(data_dir):
    val = pictures(ready(data_dir).val_dataloader())
    assert pictures(ready(data_dir, seed=99, limit_train=10, batch_size=3).val_dataloader()) == val
    assert pictures(ready(data_dir, "validate").val_dataloader()) == val
    assert pictures(ready(data_dir, split_seed=1).val_dataloader()) != val


def test_smaller_training_sets_are_balanced_subsets_of_larger_ones(data_dir):
    sets = []
    for size in (2, 10, 15, 30):
        loader = ready(data_dir, limit_train=size).train_dataloader()
        sets.append(set(pictures(loader)))
        counts = np.bincount(labels(loader), minlength=10)
        assert counts.sum() == size
        assert counts.max() - counts.min() <= 1
    assert sets[0] < sets[1] < sets[2] < sets[3]


def test_each_task_opens_only_its_own_split(data_dir, monkeypatch):
    make(data_dir).prepare_data()
    opened, really_open = [], cifar10.open_split

    def note(folder, split):
        opened.append(split)
        return really_open(folder, split)

    monkeypatch.setattr(cifar10, "open_split", note)
    for stage, wanted in {"fit": "train", "validate": "train", "test": "test", "predict": "test"}.items():
        opened.clear()
        make(data_dir).setup(stage)
        assert opened == [wanted]


def test_training_ignores_a_damaged_test_set(data_dir):
    module = ready(data_dir)
    (data_dir / "cifar10-arrays" / "test_images.npy").write_bytes(b"")
    module.setup("fit")
    module.setup("validate")
    with pytest.raises(InputError, match=r"the SHA-256 .*test_images\.npy', .*but got a file that is not a comp"):
        module.setup("test")


def test_the_whole_test_set_is_loaded_in_order(data_dir):
    module = ready(data_dir, "test")
    split = cifar10.open_split(data_dir, "test")
    assert pictures(module.test_dataloader()) == [image.tobytes() for image in split.images]
    assert labels(module.test_dataloader()) == split.labels.tolist()


def test_a_loader_needs_setup(data_dir):
    with pytest.raises(InputError, match=r"a call of `setup\('test'\)` first, but got none"):
        make(data_dir).test_dataloader()


def test_only_training_batches_are_augmented(data_dir):
    module = ready(data_dir, augment="standard")
    for loader, augmented in ((module.train_dataloader(), True), (module.val_dataloader(), False)):
        batch = next(iter(loader))
        images, found = module.on_after_batch_transfer(batch, 0)
        assert torch.equal(found, batch.labels)
        assert torch.equal(images, normalise(batch.images)) is not augmented
        assert (images.dtype, images.shape[1:]) == (torch.float32, (3, 32, 32))
        assert images.is_contiguous(memory_format=torch.channels_last)


def test_other_batches_are_not_changed(data_dir):
    example = torch.rand(2, 3, 32, 32)
    assert make(data_dir).on_after_batch_transfer(example, 0) is example


class Probe(LightningModule):
    """Records the batches of its steps."""

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
def test_images_have_the_precision_of_the_trainer(data_dir, precision, dtype):
    probe, trainer = Probe(), Trainer(max_epochs=1, precision=precision, **QUIET)
    trainer.fit(probe, datamodule=make(data_dir))
    trainer.test(probe, datamodule=make(data_dir), verbose=False)
    assert probe.seen
    assert {images.dtype for images in probe.seen} == {dtype}


def test_overfitting_repeats_the_same_images(data_dir):
    probe = Probe()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "You requested to overfit", UserWarning)  # a warning of Lightning
        trainer = Trainer(max_epochs=2, overfit_batches=2, **QUIET)
        trainer.fit(probe, datamodule=make(data_dir, augment="none"))
    assert len(probe.trained) == 4
    assert torch.equal(torch.cat(probe.trained[:2]), torch.cat(probe.trained[2:]))


def test_fit_needs_no_test_set_and_test_needs_no_training_set(data_dir):
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
    images = torch.from_numpy(cifar10.open_split(data_dir, "test").images.copy())
    assert torch.equal(torch.cat(found), normalise(images))
    assert module.predict_names == [f"test/{number:05d}" for number in range(10)]


def test_own_images_need_no_data_set(tmp_path, monkeypatch):
    monkeypatch.setattr(cifar10, "open_split", lambda *_: pytest.fail("CIFAR-10 was opened"))
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
        sharing = {"replicas": 3, "rank": rank, "num_workers": 0}
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


def test_class_names_are_those_of_cifar10():
    names = "airplane automobile bird cat deer dog frog horse ship truck"
    assert CIFAR10DataModule().class_names == tuple(names.split())


def test_hyper_parameters_are_plain_values(tmp_path):
    module = CIFAR10DataModule(tmp_path, predict_path=tmp_path)
    assert module.hparams["data_dir"] == module.hparams["predict_path"] == str(tmp_path)
    assert str(module).startswith(f"CIFAR10DataModule(data_dir='{tmp_path}', source='cifar10', batch_size=128, ")


def order_of(module):
    module.setup("fit")
    return pictures(module.train_dataloader())


def test_the_default_seed_is_that_of_seed_everything(data_dir, monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    module = ready(data_dir)
    unseeded = order_of(module)
    assert order_of(make(data_dir, seed=0)) == unseeded
    monkeypatch.setenv("PL_GLOBAL_SEED", "7")
    seeded = order_of(module)
    assert seeded != unseeded
    assert order_of(make(data_dir, seed=7)) == seeded
    assert order_of(make(data_dir, seed=0)) == unseeded


def test_the_seed_of_a_checkpoint_is_restored_and_another_refused(data_dir):
    saved = ready(data_dir, seed=5)
    adopting = ready(data_dir)
    adopting.load_state_dict(saved.state_dict())
    assert pictures(adopting.train_dataloader()) == pictures(saved.train_dataloader())
    ready(data_dir, seed=5).load_state_dict(saved.state_dict())
    with pytest.raises(InputError, match="`seed` to be the checkpoint's 5 when training is resumed, but got 6"):
        ready(data_dir, seed=6).load_state_dict(saved.state_dict())


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        *(("val_size", value, "an integer in [1, 49998]") for value in (0, -5, 50_000, True, 0.1)),
        *(("batch_size", value, "an integer of at least 2") for value in (0, 1)),
        ("eval_batch_size", 0, "a positive integer"),
        *(("split_seed", value, "an integer in [0, 4294967295]") for value in (-1, None)),
        ("seed", 2**32, "an integer in [0, 4294967295]"),
        *(("limit_train", value, "an integer in [2, 45000]") for value in (1, 45_001)),
        ("num_workers", -1, "a non-negative integer"),
    ],
)
def test_numbers_are_checked_at_construction(name, value, wanted):
    assert_refused(f"`{name}` to be {wanted}, but got {value!r}. ", **{name: value})


def test_choices_are_checked_at_construction():
    assert_refused("`source` to be one of 'cifar10', 'synthetic', but got 'mnist'", source="mnist")
    assert_refused("`augment` to be one of 'none', 'flip', 'standard', but got None", augment=None)


def test_the_synthetic_set_is_smaller():
    assert_refused("`val_size` to be an integer in [1, 9998], but got 20000", source="synthetic", val_size=20_000)


def test_a_batch_is_moved_to_a_device(data_dir):
    batch = next(iter(ready(data_dir).train_dataloader()))
    moved = make(data_dir).transfer_batch_to_device(batch, torch.device("cpu"), 0)
    assert isinstance(moved, Batch)
    assert moved.key == batch.key


def test_with_the_real_images(cifar10_dir):
    seed_everything(3, verbose=False)
    module = CIFAR10DataModule(cifar10_dir)
    module.prepare_data()
    module.setup("fit")
    train, val = module.train_dataloader(), module.val_dataloader()
    assert (len(train), len(val)) == (352, 10)
    assert np.bincount(labels(val)).tolist() == [500] * 10
    assert not set(pictures(train)) & set(pictures(val))
