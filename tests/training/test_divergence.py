"""A loss that becomes NaN or infinite: training stops before it writes another checkpoint, or continues if asked to."""

import csv
import math
from pathlib import Path

import pytest
import torch
from lightning.pytorch import Trainer

from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import UnfinishedError
from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.training.callbacks.finite_loss import FiniteLoss
from tests.training.conftest import TINY
from tests.training.small import Diverging

FOLDER = Path("lightning_logs/x/version_0")
LAST = FOLDER / "checkpoints" / "last.ckpt"


def argv(step: int, value: str = "nan") -> list[str]:
    model = ["--model=tests.training.small.Diverging", f"--model.step={step}", f"--model.value={value}"]
    return [*TINY, *model, "--name=x", "--trainer.max_epochs=4"]


def weights() -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = read_checkpoint(LAST)["state_dict"]
    return state


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_training_stops_with_the_step_and_the_last_good_checkpoint(run, value):
    answer = run("fit", *argv(9, value))
    assert answer.status == 1
    shown = {"nan": "NaN"}.get(value, value)
    assert answer.complaint.startswith(f"The loss became {shown} at step 9 (epoch 2). ")
    assert f"The last good checkpoint is `{LAST}`." in answer.complaint
    assert "`--on_nan continue`" in answer.complaint
    assert read_checkpoint(LAST)["epoch"] == 1
    assert all(tensor.isfinite().all() for tensor in weights().values())
    assert not (FOLDER / "summary.txt").exists()


def test_in_the_first_epoch_there_is_no_checkpoint(run):
    answer = run("fit", *argv(1))
    assert answer.status == 1
    assert "The loss became NaN at step 1 (epoch 0). No checkpoint was saved yet." in answer.complaint
    assert not LAST.exists()


def test_training_continues_if_asked_to(run):
    answer = run("fit", *argv(9), "--on_nan=continue")
    assert answer.status == 0, answer.err
    with (FOLDER / "metrics.csv").open() as file:
        losses = [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]
    assert [math.isfinite(loss) for loss in losses] == [True, True, False, False]
    assert not all(tensor.isfinite().all() for tensor in weights().values())


def test_a_stopped_training_resumes_from_its_last_good_checkpoint(run):
    assert run("fit", *argv(9)).status == 1
    assert run("fit", "--resume", str(FOLDER)).status == 1  # the same bits, so it diverges again
    answer = run("fit", "--resume", str(FOLDER), "--on_nan=continue")
    assert answer.status == 0, answer.err
    assert read_checkpoint(LAST)["epoch"] == 3


@pytest.mark.parametrize("every", [3, 50])
def test_losses_that_are_checked_every_few_steps_reach_no_checkpoint(tmp_path, monkeypatch, every):
    """As on a GPU, where checking each step would take time."""
    monkeypatch.setattr("lit_prune.training.callbacks.finite_loss._EVERY", every)
    monkeypatch.setattr(FiniteLoss, "_is_cheap", lambda *_: False)

    trainer = Trainer(default_root_dir=tmp_path, accelerator="cpu", max_epochs=8, logger=False,
                      callbacks=[FiniteLoss(None)], enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
    data = CIFAR10DataModule(source="synthetic", limit_train=32, val_size=20, batch_size=8)
    with pytest.raises(UnfinishedError, match=r"NaN at step 5 \("):
        trainer.fit(Diverging(step=5), data)
    assert list(tmp_path.rglob("*.ckpt"))
    for path in tmp_path.rglob("*.ckpt"):
        assert read_checkpoint(path)["global_step"] <= 5
