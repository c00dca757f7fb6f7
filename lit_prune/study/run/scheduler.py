"""Schedule the runs of a study: skip complete runs, and execute the others in parallel, each after its parent."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import count_epochs
from lit_prune.study.run.pool import Job, Pool
from lit_prune.training.run_folder import ERROR, LOG, METRICS, RESULT

_POLL = 0.2  # seconds


def list_jobs(plan: Plan, experiments: Iterable[Experiment], out: Path) -> list[Job]:
    """List the runs of the given experiments, in their order, with one run per seed of the plan."""
    return [Job(out, experiment.name, seed, plan.threads) for experiment in experiments for seed in plan.seeds]


def run_jobs(
    plan: Plan, jobs: Sequence[Job], pool: Pool, report: Callable[[int, int, Sequence[Job], str], None]
) -> tuple[dict[Job, str], list[Job]]:
    """Run jobs, each after its parent. If a job fails, its descendants are not run, but all other jobs are.

    Args:
        plan: Plan of the study.
        jobs: Jobs from `list_jobs`. The parent of each job must be among them, or complete.
        pool: Pool that executes the jobs.
        report: Function that is called about once a second, and whenever a job exits. Its arguments are the work that
            all jobs together have done (see `count_work`), the number of jobs that are neither waiting nor running,
            the running jobs, and a sentence about the job that exited ("" if none did).

    Returns:
        The failed jobs, each with the reason in a sentence, and the jobs that were not run because an ancestor failed.
    """
    failed, left_out, running = dict[Job, str](), list[Job](), list[Job]()
    waiting = [job for job in jobs if not is_complete(job)]
    work = {job: count_work(plan, job) for job in jobs}
    reported = 0.0

    def tell(sentence: str = "") -> None:
        finished = [work[job] for job in jobs if job not in waiting and job not in running]
        # a running job has not done its last unit, the start and the tests
        partly = sum(min(_logged_epochs(job), work[job] - 1) for job in running)
        report(sum(finished) + partly, len(finished), running, sentence)

    tell()
    while waiting or running:
        for job in list(waiting):
            parent = _parent(plan, job)
            if parent in failed or parent in left_out:
                waiting.remove(job)
                left_out.append(job)
            elif pool.has_room() and (parent is None or is_complete(parent)):
                waiting.remove(job)
                running.append(job)
                pool.start(job)
        if not running:  # all remaining jobs were left out, because an ancestor failed
            break
        time.sleep(_POLL)
        for job, status in pool.collect():
            running.remove(job)
            if status == 0 and is_complete(job):
                tell(f"{job.label} is complete.")
            else:
                failed[job] = _reason(job, status)
                tell(f"{job.label} failed: {failed[job]}")
        if time.monotonic() - reported > 1:
            reported = time.monotonic()
            tell()
    return failed, left_out


def count_work(plan: Plan, job: Job) -> int:
    """Return the work of a job: its number of epochs, plus 1 for its start and its tests."""
    experiment = plan[job.experiment]
    return (count_epochs(plan, experiment) if experiment.train else 0) + 1


def is_complete(job: Job) -> bool:
    """Return whether a job has finished, that is, whether its `result.json` exists."""
    return (job.folder / RESULT).is_file()


def _reason(job: Job, status: int) -> str:
    """Return a sentence that says why a job failed."""
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
    """Estimate how many epochs a run has finished, from the number of lines in its `metrics.csv`."""
    try:
        with (job.folder / METRICS).open("rb") as file:
            rows = sum(1 for _ in file) - 1
    except OSError:
        return 0
    return max(rows, 0)
