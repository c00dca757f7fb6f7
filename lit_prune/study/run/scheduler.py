"""The order of a study's runs: each after its parent, several at the same time, complete ones not again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import count_epochs
from lit_prune.study.run.pool import Job, Pool
from lit_prune.training.run_folder import ERROR, LOG, METRICS, RESULT

__all__ = ["Outcome", "Progress", "is_complete", "list_jobs", "run_jobs"]

_POLL = 0.2  # seconds


@dataclass
class Outcome:
    """Results of the jobs of a study.

    Attributes:
        complete: Jobs whose result exists, earlier ones included.
        failed: Jobs that stopped without a result, each with the reason in a sentence.
        left_out: Jobs that were not started, because their parent failed.
    """

    complete: list[Job] = field(default_factory=list)
    failed: dict[Job, str] = field(default_factory=dict)
    left_out: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """Progress of a study.

    Attributes:
        epochs: Number of finished epochs of all runs.
        running: Jobs that are running.
        stopped: The job that has just stopped, if any.
        problem: The reason if that job failed, otherwise empty.
    """

    epochs: int
    running: tuple[Job, ...]
    stopped: Job | None = None
    problem: str = ""


def list_jobs(plan: Plan, experiments: Iterable[Experiment], out: Path) -> list[Job]:
    """List the runs of some experiments: parents first, and for each experiment all seeds."""
    return [Job(out, experiment.name, seed, plan.threads) for experiment in experiments for seed in plan.seeds]


def run_jobs(plan: Plan, jobs: Iterable[Job], pool: Pool, report: Callable[[Progress], None]) -> Outcome:
    """Run jobs, each after its parent. A failed job stops its descendants alone.

    Args:
        plan: The study.
        jobs: Jobs from `list_jobs`. Each parent must be among them, or complete.
        pool: Pool that runs them.
        report: Function that receives the progress, about once a second and whenever a job stops.
    """
    outcome, waiting, running = Outcome(), list[Job](), list[Job]()
    for job in jobs:
        (outcome.complete if is_complete(job) else waiting).append(job)
    epochs = {job: count_epochs(plan, plan[job.experiment]) for job in [*outcome.complete, *waiting]}
    reported = 0.0

    def tell(stopped: Job | None = None, problem: str = "") -> None:
        done = sum(epochs[job] for job in [*outcome.complete, *outcome.failed, *outcome.left_out])
        report(Progress(done + sum(map(_logged_epochs, running)), tuple(running), stopped, problem))

    tell()
    while waiting or running:
        for job in list(waiting):
            parent = _parent(plan, job)
            if parent in outcome.failed or parent in outcome.left_out:
                waiting.remove(job)
                outcome.left_out.append(job)
            elif pool.has_room() and (parent is None or is_complete(parent)):
                waiting.remove(job)
                running.append(job)
                pool.start(job)
        if not running:  # all remaining jobs have been left out
            break
        time.sleep(_POLL)
        for job, status in pool.collect():
            running.remove(job)
            if status == 0 and is_complete(job):
                outcome.complete.append(job)
            else:
                outcome.failed[job] = _reason(job, status)
            tell(job, outcome.failed.get(job, ""))
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            tell()
    return outcome


def is_complete(job: Job) -> bool:
    """Return whether the result of a job exists."""
    return (job.folder / RESULT).is_file()


def _reason(job: Job, status: int) -> str:
    """Say in a sentence why a job failed."""
    error, log = job.folder / ERROR, job.folder / LOG
    if error.is_file():
        return error.read_text(encoding="utf-8", errors="replace").strip()
    if not job.folder.is_dir():
        return f"Its folder `{job.folder}` was moved or removed during the run."
    if status < 0:
        return f"It was killed by signal {-status}, possibly for lack of memory. See `{log}`."
    return f"It exited with status {status}. See `{log}`."


def _parent(plan: Plan, job: Job) -> Job | None:
    parent = plan[job.experiment].parent
    return None if parent is None else job._replace(experiment=parent)


def _logged_epochs(job: Job) -> int:
    """Count the epochs that a run has logged, roughly while its file is being written."""
    try:
        with (job.folder / METRICS).open("rb") as file:
            rows = sum(1 for _ in file) - 1
    except OSError:
        return 0
    return max(rows, 0) // 2  # one row of validation and one of training
