"""`lit-prune study`: run the experiments of a plan and write a report."""

import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from jsonargparse import Namespace

from lit_prune.cli.failures import print_error
from lit_prune.cli.imports import importing
from lit_prune.cli.tables import pluralize
from lit_prune.errors import InputError, UnfinishedError
from lit_prune.files.nested import merge
from lit_prune.study.measures import format_duration
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.plan import Experiment, Plan, select
from lit_prune.study.plan.run_settings import count_epochs
from lit_prune.study.plan.stored import PLAN, check_folder, store_plan, stored_plan
from lit_prune.study.report.command import write_report
from lit_prune.study.run.fork_server import CAN_FORK, Forks
from lit_prune.study.run.options import parse
from lit_prune.study.run.pool import Job, Pool, Processes, RayTasks
from lit_prune.study.run.progress import Progress
from lit_prune.study.run.scheduler import count_work, is_complete, list_jobs, run_jobs
from lit_prune.training.run_folder import LOCK, LOGS


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune study`.

    Returns:
        The exit status: 0 for success, 1 if a run failed or a file could not be written, 130 after Ctrl-C, 143 after
        SIGTERM.

    Raises:
        InputError: If the plan, an option or the folder cannot be used.
    """
    try:
        options = parse(argv[1:])
    except SystemExit as leave:  # after --help
        return int(leave.code or 0)
    try:
        return _run(options)
    except (OSError, UnfinishedError) as error:
        return print_error(error)


def _run(options: Namespace) -> int:
    plan, out = _make_plan(options)
    chosen = select(plan, options.only or ["*"])
    check_folder(plan, out)
    todo = list_jobs(plan, chosen, out)
    if not options.dry_run:
        print(_headline(plan, chosen, out), flush=True)  # before torch is imported, which takes seconds
    pool = (Forks if CAN_FORK else Processes)(options.jobs)
    with closing(pool):
        if not options.dry_run and options.ray is None and not all(map(is_complete, todo)):
            pool.prepare(plan.threads)
        pool.jobs = _check(plan, chosen, todo, out, options)
        if options.dry_run:
            print(_overview(plan, chosen, out, pool.jobs))
            return 0
        out.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(out / LOCK, timeout=0):
                store_plan(plan, out)
                return _run_and_report(plan, todo, out, options, pool)
        except Timeout as error:
            sentence = f"Another `lit-prune study` is running in `{out}`. Wait until it has finished, or stop it."
            raise InputError(sentence) from error


def _check(plan: Plan, chosen: Sequence[Experiment], todo: Sequence[Job], out: Path, options: Namespace) -> int:
    """Check that all runs can start, and return how many of them run at a time."""
    # imported here, after errors in the plan were reported
    with importing():
        from lit_prune.study.run.preflight import check_initial_weights, check_settings, default_jobs

    if any(plan[job.experiment].parent is None and not is_complete(job) for job in todo):
        check_initial_weights(plan, download=not options.dry_run)
    check_settings(plan, chosen, out)
    return options.jobs or default_jobs(plan.threads)


def _make_plan(options: Namespace) -> tuple[Plan, Path]:
    """Return the plan with all options applied, and the study's folder."""
    plan = load_plan(options.plan)
    settings = reduce(merge, options.settings, plan.settings)
    plan = replace(plan, settings=settings, threads=options.threads or plan.threads)
    if options.seeds is not None:
        plan = plan.with_seeds(options.seeds)
    out = Path(options.out or Path(LOGS) / plan.name)
    weights = options.weights or plan.initial_weights
    if options.weights is None and (out / PLAN).is_file():
        weights = stored_plan(out).initial_weights  # all runs in a folder use the same initial weights
    return replace(plan, initial_weights=weights), out


def _run_and_report(plan: Plan, todo: list[Job], out: Path, options: Namespace, pool: Pool) -> int:
    from lit_prune.study.run.preflight import estimate_epoch_seconds

    jobs = pool.jobs or 1
    gpu = (plan.settings.get("trainer") or {}).get("accelerator") != "cpu"
    if options.ray is not None:
        pool = RayTasks(options.ray, options.jobs, plan.threads, gpu)
    total, done = (sum(count_work(plan, job) for job in some) for some in (todo, filter(is_complete, todo)))
    seconds = None if done == total or options.ray is not None else estimate_epoch_seconds(plan)
    with Progress(plan.name, total, done, len(todo), seconds and seconds / jobs, jobs) as progress:
        before = signal.signal(signal.SIGTERM, _interrupt)
        try:
            failed, left_out = run_jobs(plan, todo, pool, partial(_show, progress, out))
        except KeyboardInterrupt as stop:
            status = 128 + (stop.args[0] if stop.args else signal.SIGINT)
            raise UnfinishedError("Interrupted. Run the same command again to continue.", status) from None
        finally:
            signal.signal(signal.SIGTERM, before)
            pool.close()
    _check_plan_exists(out)
    write_report(out)
    for job, reason in failed.items():
        print(f"lit-prune: {job.label} failed: {reason}", file=sys.stderr)
    for job in left_out:
        print(f"lit-prune: {job.label} was not started, because a run that it depends on failed.", file=sys.stderr)
    return 1 if failed or left_out else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    """Handle SIGTERM as Python handles Ctrl-C: raise `KeyboardInterrupt`."""
    raise KeyboardInterrupt(number)


def _count_all_epochs(plan: Plan, jobs: Iterable[Job]) -> int:
    trained = (experiment for job in jobs if (experiment := plan[job.experiment]).train)
    return sum(count_epochs(plan, experiment) for experiment in trained)


def _show(progress: Progress, out: Path, done: int, finished: int, running: Sequence[Job], sentence: str) -> None:
    progress.update(done, finished, running, sentence)
    _check_plan_exists(out)


def _check_plan_exists(out: Path) -> None:
    """Raise an `UnfinishedError` if `plan.yaml` is gone: the next run would create a folder without a plan."""
    if not (plan := out / PLAN).is_file():
        raise UnfinishedError(f"`{plan}` was moved or removed during the study. Put it back, or start the study again.")


def _headline(plan: Plan, chosen: Sequence[Experiment], out: Path) -> str:
    return f"{plan.name}: {pluralize(len(chosen), 'experiment')}, seeds {', '.join(map(str, plan.seeds))}, in {out}"


def _overview(plan: Plan, chosen: list[Experiment], out: Path, jobs: int) -> str:
    from lit_prune.study.run.preflight import estimate_epoch_seconds

    todo = [job for job in list_jobs(plan, chosen, out) if not is_complete(job)]
    epochs = _count_all_epochs(plan, todo)
    width = max(len(experiment.name) for experiment in chosen)
    start = f"{plan.initial_weights} weights" if plan.initial_weights else "weights that the model class creates"
    rows = [
        f"  {experiment.name:{width}}  {count_epochs(plan, experiment) if experiment.train else 'no':>4} epochs  "
        f"from {experiment.parent or start}"
        for experiment in chosen
    ]
    seconds = estimate_epoch_seconds(plan)
    duration = ""
    if seconds is not None:
        time = format_duration(max(seconds * sum(count_work(plan, job) for job in todo) / jobs, 60))
        duration = f", {time} on this machine with {pluralize(jobs, 'run')} at a time"
    total = f"{pluralize(len(todo), 'run')} to do, {pluralize(epochs, 'epoch')}{duration}."
    return "\n".join([_headline(plan, chosen, out), *rows, total])
