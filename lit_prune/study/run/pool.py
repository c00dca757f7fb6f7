"""Pools that run the runs of a study: processes of this machine, or tasks of a Ray cluster."""

import logging
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, NamedTuple

from lit_prune.errors import InputError, expected
from lit_prune.study.plan.run_settings import run_folder
from lit_prune.training.run_folder import ERROR, LOG


class Job(NamedTuple):
    """One run to do.

    Attributes:
        out: The study's folder.
        experiment: Name of the experiment.
        seed: Random seed.
        threads: Number of CPU threads.
    """

    out: Path
    experiment: str
    seed: int
    threads: int

    @property
    def folder(self) -> Path:
        """Folder of the run."""
        return run_folder(self.out, self.experiment, self.seed)

    @property
    def label(self) -> str:
        """Start of a sentence about the run."""
        return f"Run `{self.experiment}`, seed {self.seed},"


class Pool(ABC):
    """Runs jobs at the same time.

    Args:
        jobs: Largest number of jobs at the same time; None for no limit.
    """

    def __init__(self, jobs: int | None) -> None:
        self._jobs = jobs
        self._running: dict[Any, Job] = {}

    def has_room(self) -> bool:
        """Return whether another job can be started."""
        return self._jobs is None or len(self._running) < self._jobs

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a job, whose output is appended to `log.txt` in its folder."""

    @abstractmethod
    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs that stopped since the last call, with their exit status."""

    @abstractmethod
    def close(self) -> None:
        """Stop all jobs that are still running."""


class Processes(Pool):
    """Runs each job in a process of its own on this machine."""

    def start(self, job: Job) -> None:
        """Start a process."""
        self._running[_start(job)] = job

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs whose process exited since the last call."""
        stopped = [(process, job) for process, job in self._running.items() if process.poll() is not None]
        for process, _ in stopped:
            process.communicate()  # closes its standard input
            del self._running[process]
        return [(job, process.returncode) for process, job in stopped]

    def close(self) -> None:
        """Kill all processes: a run resumes from its last checkpoint, so there is nothing to wait for."""
        for process in self._running:
            process.kill()
        for process in self._running:
            process.communicate()
        self._running = {}


class RayTasks(Pool):
    """Runs each job as a task of a Ray cluster, whose machines share the study's folder.

    Args:
        address: Address of the cluster; "auto" for the cluster of this machine, "local" for a new one on it.
        jobs: Largest number of jobs at the same time; None leaves it to the cluster's resources.
        threads: CPU threads of each job.
        gpu: Whether jobs may use the cluster's GPUs: one each, or an equal share if `jobs` exceeds their number.

    Raises:
        InputError: If Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, jobs: int | None = None, threads: int = 1, gpu: bool = True) -> None:
        super().__init__(jobs)
        try:
            import ray
        except ImportError as error:
            hint = "Install it with `pip install 'lit-prune[ray]'`."
            raise InputError(f"The package `ray` is not installed. {hint}") from error
        self._ray: Any = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # by default Ray reports its usage to its developers
        new: dict[str, Any] = {}
        if address == "local":
            new = {"num_cpus": jobs and jobs * threads, "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **new)
        except (ConnectionError, ValueError) as error:
            found = " ".join(str(error).split())
            raise expected(f"a Ray cluster at `{address}`", found, "`local` starts one on this machine") from error
        # a task that asks for no GPU sees none
        gpus: float = self._ray.cluster_resources().get("GPU", 0) if gpu else 0
        self._gpus = min(1, gpus / jobs) if jobs else min(1, gpus)

    def start(self, job: Job) -> None:
        """Submit a task, which the cluster starts as soon as there are resources."""
        task = self._ray.remote(num_cpus=job.threads, num_gpus=self._gpus, max_retries=0)(_run)
        self._running[task.remote(job._replace(out=job.out.absolute()), os.getcwd())] = job

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs whose task stopped since the last call."""
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [(self._running.pop(task), self._status(task)) for task in ready]

    def close(self) -> None:
        """Cancel all tasks and disconnect from the cluster."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        self._ray.shutdown()

    def _status(self, task: Any) -> int:
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayError:  # the worker was lost, possibly with its machine
            return 1


def _run(job: Job, folder: str) -> int:
    """Run a job until it stops, in the folder in which the study was started."""
    os.chdir(folder)
    process = _start(job)
    try:
        return process.wait()
    finally:
        process.kill()
        process.communicate()


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    argv = [str(job.out), job.experiment, str(job.seed)]
    # environment variables must not change settings that the plan decides
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_PRUNE_FIT__")}
    (job.folder / ERROR).unlink(missing_ok=True)  # of an earlier try, which is not why this one may fail
    with (job.folder / LOG).open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "lit_prune.study.run.worker", *argv],
            stdin=subprocess.PIPE,  # the run stops when this end is closed
            stdout=log,
            stderr=subprocess.STDOUT,
            env=kept | {"OMP_NUM_THREADS": str(job.threads), "PYTHONUNBUFFERED": "1"},
            start_new_session=True,  # Ctrl-C reaches the study alone, which stops its runs
        )
