"""Where runs run: in processes of this machine, or as tasks of a Ray cluster."""

import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from lit_prune.errors import expected
from lit_prune.study.plan.run_settings import run_folder

__all__ = ["Job", "Pool", "Processes", "RayTasks"]


class Job(NamedTuple):
    """One run that is to be made.

    Attributes:
        out: The study's folder.
        experiment: The experiment's name.
        seed: The seed.
        threads: CPU threads that it uses.
    """

    out: Path
    experiment: str
    seed: int
    threads: int

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return run_folder(self.out, self.experiment, self.seed)


class Pool(Protocol):
    """Runs jobs side by side."""

    def has_room(self) -> bool:
        """Say whether another job can start at once."""
        ...

    def start(self, job: Job) -> None:
        """Start a job."""
        ...

    def ended(self) -> list[tuple[Job, int]]:
        """Return the jobs that have ended since the last call, with their exit status."""
        ...

    def close(self) -> None:
        """End what is still running."""
        ...


class Processes:
    """Runs each job in a process of its own on this machine.

    Args:
        jobs: How many at once.
    """

    def __init__(self, jobs: int) -> None:
        self._jobs = jobs
        self._running: dict[Job, subprocess.Popen[bytes]] = {}

    def has_room(self) -> bool:
        """Say whether another job can start at once."""
        return len(self._running) < self._jobs

    def start(self, job: Job) -> None:
        """Start a job; what it prints is added to `log.txt` in its folder."""
        self._running[job] = _start(job)

    def ended(self) -> list[tuple[Job, int]]:
        """Return the jobs that have ended since the last call, with their exit status."""
        ended = [(job, process.returncode) for job, process in self._running.items() if process.poll() is not None]
        for job, _ in ended:
            _release(self._running.pop(job))
        return ended

    def close(self) -> None:
        """Kill what is still running: a run goes on from its last checkpoint, so that nothing is to be waited for."""
        for process in self._running.values():
            process.kill()
        for process in self._running.values():
            process.wait()
            _release(process)
        self._running = {}


class RayTasks:
    """Runs each job as a task of a Ray cluster whose machines share this folder.

    Args:
        address: Of the cluster, "auto" for the one that this machine belongs to, or "local" for a new one on it.
        jobs: How many at once; None leaves that to the cluster's resources.
        threads: CPU threads of each run.
        gpu: Whether a run may use a GPU where the cluster has any. Each gets one, or a share if `jobs` are more.

    Raises:
        InputError: If Ray is not installed, or there is no such cluster.
    """

    def __init__(self, address: str, jobs: int | None = None, threads: int = 1, gpu: bool = True) -> None:
        try:
            import ray
        except ImportError as error:
            raise expected("the package `ray`", "none", 'install it with `pip install "lit-prune[ray]"`') from error
        self._ray: Any = ray
        self._jobs = jobs
        self._running: dict[Any, Job] = {}
        # Ray reports its use to its makers unless it is told not to
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
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

    def has_room(self) -> bool:
        """Say whether another job can be handed in; the cluster starts it when there are resources."""
        return self._jobs is None or len(self._running) < self._jobs

    def start(self, job: Job) -> None:
        """Hand a job to the cluster."""
        task = self._ray.remote(num_cpus=job.threads, num_gpus=self._gpus, max_retries=0)(_run)
        absolute = job._replace(out=job.out.absolute())
        self._running[task.remote(absolute, os.getcwd())] = job

    def ended(self) -> list[tuple[Job, int]]:
        """Return the jobs that have ended since the last call, with their exit status."""
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [(self._running.pop(task), self._status(task)) for task in ready]

    def close(self) -> None:
        """End what is still running, and leave the cluster."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        self._ray.shutdown()

    def _status(self, task: Any) -> int:
        try:
            return int(self._ray.get(task))
        except self._ray.exceptions.RayError:  # the worker was lost, with its machine perhaps
            return 1


def _run(job: Job, folder: str) -> int:
    """Run a job from here to its end, in the folder where the study was started."""
    os.chdir(folder)
    process = _start(job)
    try:
        return process.wait()
    finally:
        process.kill()
        _release(process)


def _start(job: Job) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    argv = [str(job.out), job.experiment, str(job.seed)]
    with (job.folder / "log.txt").open("ab") as log:
        return subprocess.Popen(  # noqa: S603 - our own program
            [sys.executable, "-m", "lit_prune.study.run.worker", *argv],
            stdin=subprocess.PIPE,  # the run ends when this end of it is gone
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(job),
            start_new_session=True,  # Ctrl-C is for the study, which ends its runs itself
        )


def _environment(job: Job) -> dict[str, str]:
    """This process's, without what would change settings that the plan decides."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_PRUNE_FIT__")}
    return kept | {"OMP_NUM_THREADS": str(job.threads), "PYTHONUNBUFFERED": "1"}


def _release(process: subprocess.Popen[bytes]) -> None:
    if process.stdin is not None:
        process.stdin.close()
