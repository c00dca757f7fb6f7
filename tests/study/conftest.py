"""Plans of studies that run in seconds."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.study.run import command, worker
from lit_prune.study.run.pool import Job, Pool
from lit_prune.training.run_folder import LOG

# an epoch takes a fraction of a second
TINY: dict[str, Any] = {
    "model": {
        "optimizer": {"class_path": "torch.optim.Adam", "init_args": {"lr": 0.001, "fused": True}},
        # each layer keeps its usual share of the weights
        "channels": {name: width // 8 for name, width in FULL_CHANNELS.items()},
    },
    "data": {"source": "synthetic", "limit_train": 64, "val_size": 20, "batch_size": 16, "eval_batch_size": 100},
    "trainer": {
        "accelerator": "cpu",
        "max_epochs": 3,
        "limit_test_batches": 0.05,  # one batch
        "callbacks": [{"class_path": "SparsityMonitor", "init_args": {"per_layer": False}}],
    },
}


def callbacks(*items: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    """Make overrides that add callbacks, from class names and arguments."""
    return {"trainer": {"callbacks+": [{"class_path": name, "init_args": arguments} for name, arguments in items]}}


PRUNED = callbacks(("GlobalL1Pruning", {"amount": 0.3}))
FREED = callbacks(("GlobalL1Pruning", {"amount": 0.3}), ("PruningRemoval", {"epoch": 1}))


@pytest.fixture
def write_plan(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a plan of tiny runs."""

    def write(*experiments: dict[str, Any], **keys: Any) -> Path:
        path = tmp_path / "tiny.yaml"
        content = {"name": "tiny", "settings": TINY, "experiments": list(experiments), **keys}
        path.write_text(yaml.safe_dump(content), encoding="utf-8")
        return path

    return write


def start(*argv: str, cwd: Path) -> "subprocess.Popen[str]":
    """Start `lit-prune` in a new process."""
    return subprocess.Popen(
        [sys.executable, "-m", "lit_prune", *argv],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


class ThisProcess(Pool):
    """Executes each job in this process, where all modules are imported already."""

    def start(self, job: Job) -> None:
        """Execute a job from its start to its end."""
        job.folder.mkdir(parents=True, exist_ok=True)
        with (job.folder / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            self._running[job, worker.main([str(job.out), job.experiment, str(job.seed)])] = job

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs that ran since the last call."""
        ended, self._running = list(self._running), {}
        return ended

    def close(self) -> None:
        """Nothing is left to stop."""


@pytest.fixture
def no_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the runs of a study share the process of the test."""
    monkeypatch.setattr(command, "Forks", ThisProcess)
