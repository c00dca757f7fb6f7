"""A killed process of a distributed strategy: the other one soon stops with an error, and no process is left."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lit_prune.files.checkpoint import read_checkpoint
from tests.faults.conftest import FIT

ROOT = Path(__file__).parents[2]
BOUND = 60  # seconds
DDP = ["--trainer.strategy=ddp", "--trainer.devices=2", "--trainer.max_epochs=100000", "--data.points=4096"]


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition, seconds):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.02)


def child_of(process):
    """The process that the strategy has launched; None before that."""
    for word in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
        # not the command line alone: any process that was just forked still has that of its parent
        if b"LOCAL_RANK=" in Path(f"/proc/{word}/environ").read_bytes():
            return int(word)
    return None


@pytest.fixture
def training(tmp_path):
    """A `fit` in two processes, both of which have started."""
    argv = [sys.executable, "-m", "lit_prune", *FIT, *DDP, f"--trainer.default_root_dir={tmp_path}"]
    with (tmp_path / "printed").open("w") as file:
        process = subprocess.Popen(argv, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
    try:
        wait_for(lambda: process.poll() is not None or child_of(process), 300)
        assert process.poll() is None
        child = child_of(process)
        yield process, child, tmp_path
    finally:
        process.kill()
        process.wait()
        if alive(child):
            os.kill(child, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_other_process_stops_with_one_sentence(training, rank):
    process, child, folder = training
    wait_for(lambda: list(folder.rglob("last.ckpt")) or process.poll() is not None, 300)
    lost, other = (process.pid, child) if rank == 0 else (child, process.pid)
    os.kill(lost, signal.SIGKILL)
    wait_for(lambda: process.poll() is not None and not alive(other), BOUND)
    printed = (folder / "printed").read_text()
    assert process.returncode == (-signal.SIGKILL if rank == 0 else 1), printed
    assert "Traceback" not in printed
    assert printed.count("lit-prune: error: Another process of this run stopped.") == 1
    # the last checkpoint is complete
    (checkpoint,) = folder.rglob("last.ckpt")
    read_checkpoint(checkpoint)
    if rank == 1:  # rank 0 writes, and may be killed while it does
        assert not list(folder.rglob("*.part"))


@pytest.mark.slow
def test_a_launched_process_does_not_wait_for_a_killed_launcher(training):
    """Before the processes have connected, it would otherwise wait for half an hour."""
    process, child, _ = training
    process.kill()
    process.wait()
    wait_for(lambda: not alive(child), BOUND)


def test_a_launched_process_exits_with_its_launcher():
    launched = (
        "from lit_prune.training.launcher import exit_with_launcher as watch; watch(); import time; time.sleep(600)"
    )
    launcher = (
        "import os, subprocess, sys, time\n"
        "from lit_prune.training.launcher import exit_with_launcher\n"
        "exit_with_launcher()\n"
        f"other = subprocess.Popen([sys.executable, '-c', {launched!r}], env=os.environ | {{'LOCAL_RANK': '1'}})\n"
        "print(other.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", launcher], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        time.sleep(2.5)
        assert alive(child)
        process.kill()
    wait_for(lambda: not alive(child), 30)


def test_a_process_launched_by_another_program_is_not_watched():
    code = (
        "import threading\n"
        "from lit_prune.training.launcher import exit_with_launcher\n"
        "exit_with_launcher()\n"
        "print(threading.active_count())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "LIT_PRUNE_LAUNCHER"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment | {"LOCAL_RANK": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "1\n"
