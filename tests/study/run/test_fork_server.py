"""Runs in forks of a server: their results, and what happens when a run, the server or the study is killed."""

import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.stored import store_plan
from lit_prune.study.run.fork_server import CAN_FORK, Forks
from lit_prune.study.run.pool import Job
from tests.study.conftest import TINY, callbacks

pytestmark = [pytest.mark.gate, pytest.mark.skipif(not CAN_FORK, reason="runs are forks only on Linux")]
LONG = {"trainer": {"max_epochs": 5000}}
TWO = {"strategy": "ddp", "devices": 2, "limit_test_batches": 1}
WRONG = callbacks(("GlobalL1Pruning", {"amount": 0.9, "max_layer_sparsity": 0.1}))


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study, in which no run has started."""
    folder = tmp_path_factory.mktemp("forks")
    experiments = [
        {"name": "short", "train": False},
        {"name": "wrong", "overrides": WRONG},
        {"name": "long", "overrides": LONG},
        {"name": "longer", "overrides": LONG},
        {"name": "ddp", "overrides": {"trainer": TWO}},
    ]
    content = {"name": "tiny", "settings": TINY, "initial_weights": "random", "experiments": experiments}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    store_plan(load_plan(folder / "tiny.yaml"), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def pool(out: Path) -> Iterator[Forks]:
    """A pool whose server has done the imports once for all tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIT_PRUNE_FIT__DATA__BATCH_SIZE", "7")  # no run may see it
        pool = Forks(None)
        pool.prepare(1)
    yield pool
    pool.close()


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def server(pool: Forks) -> int:
    assert pool._server is not None
    return pool._server.pid


def wait_for(condition, seconds=200):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


def train(pool: Forks, *jobs: Job) -> list[int]:
    """Start jobs, and return their processes once all of them train."""
    before = set(children(server(pool)))
    for job in jobs:
        pool.start(job)
    wait_for(lambda: all((job.folder / "checkpoints/last.ckpt").is_file() for job in jobs))
    return [pid for pid in children(server(pool)) if pid not in before]


def test_the_server_has_no_threads_and_runs_get_pristine_settings(pool, out):
    jobs = [Job(out, "short", 0, 1), Job(out, "wrong", 0, 1)]
    for job in jobs:
        pool.start(job)
    exited: dict[Job, int] = {}
    wait_for(lambda: exited.update(pool.collect()) or len(exited) == 2)
    assert os.listdir(f"/proc/{server(pool)}/task") == [str(server(pool))]  # a fork would lack the others
    assert exited == dict(zip(jobs, (0, 2), strict=True))
    short, wrong = (job.folder for job in jobs)
    assert (short / "result.json").is_file()
    assert "batch_size: 16" in (short / "config.yaml").read_text()
    # each run has its own log, down to the file descriptor
    assert "max_layer_sparsity" in (wrong / "error.txt").read_text()
    assert "max_layer_sparsity" in (wrong / "log.txt").read_text()
    assert "max_layer_sparsity" not in (short / "log.txt").read_text()


def test_a_run_that_is_killed_does_not_disturb_the_others(pool, out):
    long, longer = Job(out, "long", 0, 1), Job(out, "longer", 0, 1)
    (pid,) = train(pool, long)
    (other,) = train(pool, longer)
    assert len({os.getsid(process) for process in (os.getpid(), server(pool), pid, other)}) == 4
    os.kill(pid, signal.SIGKILL)
    assert wait_for(pool.collect) == [(long, -signal.SIGKILL)]
    assert alive(other)
    os.kill(other, signal.SIGTERM)  # the server ignores it, a run does not
    assert wait_for(pool.collect)[0][0] == longer


def test_a_fork_trains_with_ddp(pool, out):
    job = Job(out, "ddp", 0, 1)
    pool.start(job)
    assert wait_for(pool.collect) == [(job, 0)]
    assert (job.folder / "result.json").is_file()
    assert "2 processes" in (job.folder / "log.txt").read_text()


def test_a_run_is_a_new_process_if_forks_cannot_use_the_gpu(out, tmp_path, monkeypatch):
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "def after(): sys.modules['torch'].cuda._is_in_bad_fork = lambda: True\n"  # as after a use of CUDA
        "os.register_at_fork(after_in_child=lambda: 'torch' in sys.modules and after())\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.getenv("PYTHONPATH")])]))
    pool = Forks(None)
    pool.prepare(1)
    try:
        (run,) = train(pool, Job(out, "long", 3, 1))
        command = Path(f"/proc/{run}/cmdline").read_bytes().split(b"\0")
        assert command[-4:-1] == [str(out).encode(), b"long", b"3"]
        assert b"long" not in Path(f"/proc/{server(pool)}/cmdline").read_bytes()
    finally:
        pool.close()


def test_when_the_server_is_killed_its_runs_exit_and_are_reported(out):
    pool, jobs = Forks(None), [Job(out, "long", 1, 1), Job(out, "longer", 1, 1)]
    pool.prepare(1)
    try:
        runs = train(pool, *jobs)
        assert len(runs) == 2
        os.kill(server(pool), signal.SIGKILL)
        assert sorted(wait_for(pool.collect)) == [(job, -signal.SIGKILL) for job in jobs]
        wait_for(lambda: not any(map(alive, runs)), 20)
        assert pool.has_room()
        assert pool.collect() == []
        pool.start(Job(out, "short", 1, 1))  # starts another server
        assert wait_for(pool.collect) == [(Job(out, "short", 1, 1), 0)]
        # closing kills the runs before it returns
        runs = train(pool, Job(out, "long", 2, 1))
        pid = server(pool)
    finally:
        pool.close()
    assert len(runs) == 1
    assert not any(map(alive, [pid, *runs]))


def test_the_output_of_a_server_that_cannot_import_goes_to_the_log(out, tmp_path, monkeypatch):
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho said\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    pool, job = Forks(None), Job(out, "short", 3, 1)
    pool.start(job)
    assert wait_for(pool.collect) == [(job, 3)]
    assert (job.folder / "log.txt").read_text() == "said\n"
    pool.close()
