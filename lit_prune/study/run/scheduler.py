"""Running a study: each run after its parent, several side by side, and what is complete not again."""

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import epochs_of
from lit_prune.study.run.pool import Job, Pool

__all__ = ["Outcome", "Progress", "jobs_of", "run_jobs"]

_POLL = 0.2  # seconds


@dataclass
class Outcome:
    """What became of the jobs of a study.

    Attributes:
        complete: Those whose result is there, also from earlier.
        failed: Those that ended without one, and the sentence that says why.
        left_out: Those whose parent failed.
    """

    complete: list[Job] = field(default_factory=list)
    failed: dict[Job, str] = field(default_factory=dict)
    left_out: list[Job] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        epochs: Epochs that are done, of all runs of this study.
        running: The jobs that are being run.
        ended: The job that has just ended, if one has.
        problem: Why it failed, if it did.
    """

    epochs: int
    running: tuple[Job, ...]
    ended: Job | None = None
    problem: str = ""


def jobs_of(plan: Plan, experiments: Iterable[Experiment], out: Path) -> list[Job]:
    """List the runs of some experiments of a plan: parents first, and of each experiment all seeds."""
    return [Job(out, experiment.name, seed, plan.threads) for experiment in experiments for seed in plan.seeds]


def run_jobs(plan: Plan, jobs: Iterable[Job], pool: Pool, report: Callable[[Progress], None]) -> Outcome:
    """Run jobs, each after the one whose weights it starts from; a failure stops only what depends on it.

    Args:
        plan: The study.
        jobs: From `jobs_of`. A parent is among them, or complete.
        pool: Where they run.
        report: Is told how far the study is, about once a second and when a job has ended.
    """
    outcome = Outcome()
    waiting = list(jobs)
    epochs = {job: epochs_of(plan, plan[job.experiment]) for job in waiting}
    outcome.complete = [job for job in waiting if is_complete(job)]
    waiting = [job for job in waiting if job not in outcome.complete]
    running: list[Job] = []
    told = 0.0

    def tell(ended: Job | None = None, problem: str = "") -> None:
        done = sum(epochs[job] for job in [*outcome.complete, *outcome.failed, *outcome.left_out])
        report(Progress(done + sum(_epochs_so_far(job) for job in running), tuple(running), ended, problem))

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
        if not running:  # all that was left has been left out
            break
        time.sleep(_POLL)
        for job, status in pool.ended():
            running.remove(job)
            problem = "" if status == 0 and is_complete(job) else why(job, status)
            if problem:
                outcome.failed[job] = problem
            else:
                outcome.complete.append(job)
            tell(job, problem)
        if time.monotonic() - told > 1:
            told = time.monotonic()
            tell()
    return outcome


def is_complete(job: Job) -> bool:
    """Say whether the result of a job is there."""
    return (job.folder / "result.json").is_file()


def why(job: Job, status: int) -> str:
    """Say in a sentence why a job has failed."""
    error = job.folder / "error.txt"
    if error.is_file():
        return error.read_text(encoding="utf-8", errors="replace").strip()
    if not job.folder.is_dir():
        return f"Its folder `{job.folder}` was moved or removed while it ran."
    if status < 0:
        return f"It was killed by signal {-status}, perhaps for want of memory; see `{job.folder / 'log.txt'}`."
    return f"It ended with exit status {status}; see `{job.folder / 'log.txt'}`."


def _parent(plan: Plan, job: Job) -> Job | None:
    parent = plan[job.experiment].parent
    return None if parent is None else job._replace(experiment=parent)


def _epochs_so_far(job: Job) -> int:
    """Count the epochs that a run has logged; while a file is being written the count may be a little off."""
    try:
        with (job.folder / "metrics.csv").open("rb") as file:
            rows = sum(1 for _ in file) - 1
    except OSError:
        return 0
    return max(rows, 0) // 2  # one row of validation and one of training
