"""A resumed run sees the same batches as an uninterrupted one."""

import hashlib

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError

pytestmark = [
    # the runs of a test share a folder; Lightning numbers the files
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
    # resumed runs write no checkpoints, which saves most of the time
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks:UserWarning"),
]

BATCHES = 4  # 33 images in batches of 8, the last one of 9


class Recorder(LightningModule):
    """A linear classifier that records the batches of its training."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3072, 10)
        torch.nn.init.zeros_(self.layer.weight)
        torch.nn.init.zeros_(self.layer.bias)
        self.batches = []

    def training_step(self, batch):
        images, labels = batch
        content = images.contiguous().numpy().tobytes() + labels.numpy().tobytes()
        self.batches.append((self.current_epoch, len(labels), hashlib.sha256(content).hexdigest()))
        return torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels)

    def validation_step(self, batch):
        images, labels = batch
        self.log("loss", torch.nn.functional.cross_entropy(self.layer(images.flatten(1)), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.01, momentum=0.9)


@pytest.fixture
def fit(fake_cifar10, tmp_path):
    """Train, from a checkpoint if one is given, and return the module."""
    (tmp_path / fake_cifar10.name).symlink_to(fake_cifar10)

    def run(ckpt_path=None, data=None, **arguments):
        module = Recorder()
        callback = ModelCheckpoint(tmp_path / "steps", "{step}", save_top_k=-1, every_n_train_steps=1)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            callbacks=[callback] if ckpt_path is None else [],
            enable_checkpointing=ckpt_path is None,
            enable_progress_bar=False,
            enable_model_summary=False,
            **arguments,
        )
        settings = {"seed": 3, "augment": "standard", **(data or {})}
        datamodule = CIFAR10DataModule(tmp_path, val_size=10, limit_train=33, batch_size=8, **settings)
        trainer.fit(module, datamodule=datamodule, ckpt_path=ckpt_path, weights_only=True)
        return module

    return run


def checkpoint(tmp_path, step):
    return tmp_path / "steps" / f"step={step}.ckpt"


def same_weights(left, right):
    return all(torch.equal(a, b) for a, b in zip(left.parameters(), right.parameters(), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "arguments",
    [
        {"max_epochs": 2},
        {"max_epochs": 2, "limit_val_batches": 0},
        {"max_epochs": 2, "val_check_interval": 2},
        {"max_epochs": -1, "max_steps": 2 * BATCHES},
    ],
    ids=["validation", "no validation", "validation in between", "max_steps"],
)
@pytest.mark.gate
def test_resuming_after_any_step_changes_nothing(fit, tmp_path, workers, arguments):
    whole = fit(data={"num_workers": workers}, **arguments)
    assert [size for _, size, _ in whole.batches] == [8, 8, 8, 9] * 2
    assert len({content for *_, content in whole.batches}) == 2 * BATCHES
    for step in range(1, 2 * BATCHES) if workers == 0 else (2, BATCHES):
        resumed = fit(checkpoint(tmp_path, step), data={"num_workers": workers}, **arguments)
        assert resumed.batches == whole.batches[step:], step
        assert same_weights(resumed, whole), step


@pytest.mark.gate
def test_workers_read_the_same_batches(fit):
    assert fit(data={"num_workers": 0}, max_epochs=2).batches == fit(data={"num_workers": 2}, max_epochs=2).batches


def test_a_longer_run_continues_with_the_next_epoch(fit, tmp_path):
    fit(max_epochs=2)
    resumed = fit(checkpoint(tmp_path, 2 * BATCHES), max_epochs=3)
    assert resumed.batches == fit(max_epochs=3).batches[2 * BATCHES :]


def test_shortened_epochs_resume_too(fit, tmp_path):
    whole = fit(max_epochs=3, limit_train_batches=2)
    for step in range(1, 6):
        resumed = fit(checkpoint(tmp_path, step), max_epochs=3, limit_train_batches=2)
        assert resumed.batches == whole.batches[step:], step


def test_the_seed_of_the_checkpoint_is_restored_and_another_refused(fit, tmp_path, monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    whole = fit(max_epochs=2)
    assert fit(checkpoint(tmp_path, 5), data={"seed": None}, max_epochs=2).batches == whole.batches[5:]
    with pytest.raises(InputError, match="`seed` to be the checkpoint's 3 when training is resumed"):
        fit(checkpoint(tmp_path, 5), data={"seed": 4}, max_epochs=2)


def test_another_augmentation_changes_the_batches(fit):
    assert fit(max_epochs=1).batches != fit(max_epochs=1, data={"augment": "flip"}).batches
