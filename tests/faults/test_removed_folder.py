"""A run folder that is removed during training: one sentence, and no new folder with half of the logs."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from tests.faults.conftest import FIT


def removal(**arguments):
    """Options that remove the run's folder while it trains."""
    name = "--trainer.callbacks"
    return [f"{name}+=tests.faults.modules.RemoveFolder", *(f"{name}.{k}={v}" for k, v in arguments.items())]


@pytest.mark.parametrize("arguments", [{"epoch": 2}, {"epoch": 2, "validating": True}, {"epoch": 3, "above": 2}])
@pytest.mark.parametrize("checkpoints", [True, False], ids=["with checkpoints", "logs alone"])
@pytest.mark.gate
def test_a_run_whose_folder_is_removed_stops_and_creates_no_other(run, tmp_path, arguments, checkpoints):
    bystander = tmp_path / "bystander"
    bystander.touch()
    answer = run(*FIT, "--trainer.max_epochs=6", f"--trainer.enable_checkpointing={checkpoints}", *removal(**arguments))
    assert answer.status == 1
    assert "No such file or directory" in answer.complaint
    assert "lightning_logs/Line/version_0/" in answer.complaint
    left = [] if arguments.get("above") else [Path("lightning_logs/Line")]
    assert list(Path("lightning_logs").rglob("*")) == left
    assert bystander.exists()
    # the next run starts from the beginning
    answer = run(*FIT, "--trainer.max_epochs=1")
    assert answer.status == 0, answer.err
    assert Path("lightning_logs/Line/version_0/metrics.csv").is_file()


def test_a_run_whose_folder_is_moved_writes_to_neither_place(run, tmp_path):
    folder, away = Path("lightning_logs/Line/version_0"), tmp_path / "away"

    def move():
        while not all((folder / name).is_file() for name in ("checkpoints/last.ckpt", "metrics.csv")):
            time.sleep(0.01)
        folder.absolute().rename(away)

    mover = threading.Thread(target=move, daemon=True)
    mover.start()
    answer = run(*FIT, "--trainer.max_epochs=2000")
    mover.join(60)
    assert answer.status == 1
    assert "No such file or directory" in answer.complaint
    assert not folder.exists()
    assert (away / "checkpoints/last.ckpt").is_file()
    # moved back, it can be resumed
    shutil.move(away, folder)
    last = (folder / "metrics.csv").read_text().splitlines()[-1]
    answer = run("fit", f"--resume={folder}", f"--trainer.max_epochs={int(last.split(',')[0]) + 2}")
    assert answer.status == 0, answer.err
