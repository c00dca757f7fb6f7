"""A run of two processes: a signal to one of them, a NaN loss in one of them, and resuming."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from lit_prune.files.checkpoint import read_checkpoint
from tests.training.conftest import NARROW
from tests.training.test_resuming import FOLDER, LAST, OPTIONS, assert_same_run

ROOT = Path(__file__).parents[2]
DDP = [
    "--trainer.strategy=ddp",
    "--trainer.devices=2",
    "--threads=1",
    "--data.limit_train=64",
    "--trainer.max_epochs=3",
]


def fit(folder: Path, *argv: str, options: Sequence[str] = OPTIONS) -> tuple[int, str]:
    """Run the command; return its exit status and what it printed on stderr."""
    folder.mkdir(exist_ok=True)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, "-m", "lit_prune", "fit", *options, *DDP, *argv]
    done = subprocess.run(
        command, cwd=folder, env=environment, text=True, stderr=subprocess.PIPE, check=False, timeout=300
    )
    return done.returncode, done.stderr


def complaints(printed: str) -> list[str]:
    assert "Traceback" not in printed
    return [line for line in printed.splitlines() if line.startswith(("lit-prune: error: ", "lit-prune: Stopped by "))]


@pytest.mark.slow
def test_our_model_prints_no_warnings_of_distributed_runs(tmp_path):
    options = [NARROW, *(option for option in OPTIONS if not option.startswith("--model"))]
    status, printed = fit(tmp_path, options=options)
    assert status == 0, printed
    assert "2 processes" in printed
    assert "sync_dist" not in printed
    assert "Grad strides" not in printed


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_at_the_same_step_and_both_resume(tmp_path):
    status, printed = fit(tmp_path / "whole")
    assert status == 0, printed
    folder = tmp_path / "cut"
    sent = folder / "sent"
    callback = [
        "--trainer.callbacks+=tests.training.interrupting.Interrupting",
        "--trainer.callbacks.hook=on_before_optimizer_step",
        "--trainer.callbacks.step=5",
        "--trainer.callbacks.marker=sent",
        "--trainer.callbacks.rank=0",
    ]
    status, printed = fit(folder, *callback)
    assert sent.exists(), printed
    assert status == 128 + signal.SIGTERM
    (complaint,) = complaints(printed)
    assert f"everything is saved. Resume with `lit-prune fit --resume {FOLDER}`." in complaint
    assert read_checkpoint(folder / LAST)["global_step"] == 6
    status, printed = fit(folder, *callback, "--resume")
    assert status == 0, printed
    assert_same_run(folder / FOLDER, tmp_path / "whole" / FOLDER)


@pytest.mark.slow
def test_a_nan_loss_in_one_process_stops_both(tmp_path):
    began = time.monotonic()
    status, printed = fit(
        tmp_path / "nan", "--model=tests.training.small.Diverging", "--model.step=5", "--model.rank=1"
    )
    assert status == 1
    assert complaints(printed)
    assert all("The loss became NaN" in line for line in complaints(printed)), printed
    assert read_checkpoint(tmp_path / "nan" / LAST)["global_step"] == 4
    assert time.monotonic() - began < 100
