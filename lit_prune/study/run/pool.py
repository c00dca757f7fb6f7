"""Execute the runs of a study in parallel, as processes on this machine or as tasks on a Ray cluster."""

import logging
import os
import subprocess
import sys
from abc import ABC, abstractmethod
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from lit_prune.errors import InputError, expected
from lit_prune.study.plan.run_settings import run_folder
from lit_prune.training.run_folder import ERROR, LOG

# make glibc keep the memory that a step frees; the system would have to clear its pages again for the next step
_ALLOCATOR = {"MALLOC_MMAP_THRESHOLD_": str(1 << 30), "MALLOC_TRIM_THRESHOLD_": str(1 << 30)}

_LOSSES = 3  # a run that has lost its machine this many times counts as failed


class Job(NamedTuple):
    """A run to execute: one experiment with one seed.

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
    def argv(self) -> list[str]:
        """Arguments of the process that executes the run."""
        return [str(self.out), self.experiment, str(self.seed)]

    @property
    def label(self) -> str:
        """The run, as the start of a sentence such as "Run `a`, seed 0, is complete."."""
        return f"Run `{self.experiment}`, seed {self.seed},"


class Pool(ABC):
    """Executes several jobs in parallel.

    Args:
        jobs: Maximum number of parallel jobs; None for no limit.

    Attributes:
        jobs: Maximum number of parallel jobs.
    """

    def __init__(self, jobs: int | None) -> None:
        self.jobs = jobs
        self._running: dict[Any, Job] = {}

    def has_room(self) -> bool:
        """Return whether another job can be started."""
        return self.jobs is None or len(self._running) < self.jobs

    def prepare(self, threads: int) -> None:  # noqa: B027 - most pools have nothing to prepare
        """Begin, in the background, what jobs with this number of threads would otherwise have to wait for."""

    @abstractmethod
    def start(self, job: Job) -> None:
        """Start a job, and append its output to `log.txt` in the folder of the run."""

    @abstractmethod
    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs that exited since the last call, each with its exit status."""

    @abstractmethod
    def close(self) -> None:
        """Stop all jobs that are still running."""


class Processes(Pool):
    """Executes each job in a separate process on this machine."""

    def start(self, job: Job) -> None:
        """Start a process for a job."""
        self._running[_start(job)] = job

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs whose process exited since the last call."""
        stopped = [(process, job) for process, job in self._running.items() if process.poll() is not None]
        for process, _ in stopped:
            process.communicate()  # closes the pipe to its standard input
            del self._running[process]
        return [(job, process.returncode) for process, job in stopped]

    def close(self) -> None:
        """Kill all processes; a later `lit-prune study` resumes the runs from their last checkpoints."""
        for process in self._running:
            process.kill()
        for process in self._running:
            process.communicate()
        self._running = {}


class RayTasks(Pool):
    """Executes each job as a task on a Ray cluster. All machines of the cluster must share the study's folder.

    A job whose machine is lost is started again on another one, where it resumes from its last checkpoint; at the third
    loss, it fails. Jobs that fail in any other way, for example for lack of memory, are not repeated.

    Args:
        address: Address of the cluster; "auto" to find a running cluster, "local" to start one on this machine.
        jobs: Maximum number of parallel jobs; None for as many as the CPUs and GPUs of the cluster allow.
        threads: Number of CPU threads of each job.
        gpu: Whether jobs may use GPUs. Each job gets one GPU, or a part of one if `jobs` exceeds the number of GPUs.

    Raises:
        InputError: If Ray is not installed, or the cluster cannot be reached.
    """

    def __init__(self, address: str, jobs: int | None = None, threads: int = 1, gpu: bool = True) -> None:
        super().__init__(jobs)
        try:
            import ray
        except ImportError as error:
            hint = "Install it with `pip install 'lit-prune[ray]'`."
            raise InputError(f"The package `ray` is not installed. {hint}") from error
        self._ray: Any = ray
        self._losses: Counter[Job] = Counter()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # otherwise, Ray reports usage to its developers
        new: dict[str, Any] = {}
        if address == "local":
            new = {"num_cpus": jobs and jobs * threads, "include_dashboard": False}
        try:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **new)
        except (ConnectionError, ValueError) as error:
            found = " ".join(str(error).split())
            raise expected(f"a Ray cluster at `{address}`", found, "`local` starts one on this machine") from error
        # each task asks for a GPU or a part of one, because Ray hides all GPUs from a task with `num_gpus=0`
        gpus: float = self._ray.cluster_resources().get("GPU", 0) if gpu else 0
        self._gpus = min(1, gpus / jobs) if jobs else min(1, gpus)

    def start(self, job: Job) -> None:
        """Submit a task, which the cluster starts as soon as enough CPUs and GPUs are free."""
        # `max_retries=0`: Ray's own retries would also repeat, without limit, tasks that run out of memory
        task = self._ray.remote(num_cpus=job.threads, num_gpus=self._gpus, max_retries=0)(_run)
        self._running[task.remote(job._replace(out=job.out.absolute()), os.getcwd())] = job

    def collect(self) -> list[tuple[Job, int]]:
        """Return the jobs whose task ended since the last call, except those that are started again."""
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        ended = [(self._running.pop(task), task) for task in ready]
        return [(job, status) for job, task in ended if (status := self._status(job, task)) is not None]

    def close(self) -> None:
        """Cancel all tasks and disconnect from the cluster."""
        for task in self._running:
            self._ray.cancel(task, force=True)
        self._running = {}
        self._ray.shutdown()

    def _status(self, job: Job, task: Any) -> int | None:
        """Return the exit status of a job, or None if it was lost with its machine, and is started again."""
        errors = self._ray.exceptions
        try:
            return int(self._ray.get(task))
        except (errors.NodeDiedError, errors.LocalRayletDiedError, errors.WorkerCrashedError):
            self._losses[job] += 1
            if self._losses[job] == _LOSSES:
                return 1
        except errors.RayError:
            return 1
        with open_log(job) as log:
            log.write(b"The machine of this run was lost. The run continues on another one.\n")
        self.start(job)
        return None


def _run(job: Job, folder: str) -> int:
    """Execute a job on a machine of the cluster, in the given working directory, and return the job's exit status."""
    os.chdir(folder)
    process = _start(job)
    try:
        return process.wait()
    finally:
        process.kill()
        process.communicate()


def _start(job: Job) -> subprocess.Popen[bytes]:
    with open_log(job) as log:
        return launch(job.argv, job.threads, subprocess.PIPE, log)


def open_log(job: Job) -> BinaryIO:
    """Open the log of a run that is about to start, and remove the reason of an earlier failure."""
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / ERROR).unlink(missing_ok=True)
    return (job.folder / LOG).open("ab")


def launch(argv: list[str], threads: int, stdin: Any, log: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a process that exits when its standard input is closed: a run or, without arguments, the fork server."""
    # environment variables of `lit-prune fit` must not override the settings of the plan
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LIT_PRUNE_FIT__")}
    return subprocess.Popen(  # noqa: S603 - our own program
        [sys.executable, "-m", "lit_prune.study.run", *argv],
        stdin=stdin,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=_ALLOCATOR | kept | {"OMP_NUM_THREADS": str(threads), "PYTHONUNBUFFERED": "1"},
        start_new_session=True,  # Ctrl-C interrupts only the study, which then kills its runs
    )
