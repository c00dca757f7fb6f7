"""`lit-prune study`: from a plan to a report."""

import errno
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial, reduce
from pathlib import Path
from types import FrameType

from filelock import FileLock, Timeout
from tqdm import tqdm

from lit_prune.cli.failures import describe_failure, print_error
from lit_prune.errors import expected
from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan, load_plan, select
from lit_prune.study.plan.run_settings import epochs_of
from lit_prune.study.plan.stored import known_plan, store_plan, stored_plan
from lit_prune.study.report.command import write_report
from lit_prune.study.run.options import Options, parse
from lit_prune.study.run.pool import Pool, Processes, RayTasks
from lit_prune.study.run.scheduler import Outcome, Progress, is_complete, jobs_of, run_jobs

__all__ = ["main"]


class _Terminated(KeyboardInterrupt):
    """SIGTERM, which is to end a study as Ctrl-C does."""


@contextmanager
def _terminable() -> Iterator[None]:
    def stop(number: int, frame: FrameType | None) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune study`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if a run failed or files could not be written, 130 after Ctrl-C, 143 after SIGTERM.

    Raises:
        InputError: If the plan, an option or the folder cannot be used.
    """
    try:
        options = parse(argv[1:])
    except SystemExit as leave:  # --help ends here
        return int(leave.code or 0)
    try:
        return _run(options)
    except OSError as error:
        failure = describe_failure(error)
        return print_error(error, 1, failure and failure.sentence)


def _run(options: Options) -> int:
    plan, out, sentence = _plan(options)
    chosen = select(plan, options.only or ["*"])
    if sentence:
        print(f"lit-prune: {sentence}", file=sys.stderr)
    from lit_prune.study.run.preflight import (  # torch takes seconds, a wrong plan should not
        check_settings,
        default_jobs,
    )

    check_settings(plan, chosen, out)
    jobs = options.jobs or default_jobs(plan.threads)
    if options.dry_run:
        print(_overview(plan, chosen, out, jobs))
        return 0
    known_plan(plan, out)  # before anything is written there
    out.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(out / ".lock", timeout=0):
            return _locked(store_plan(plan, out), plan, chosen, out, options, jobs)
    except Timeout as error:
        raise expected(
            f"`{out}` for this study alone", "another one that runs in it", "wait for it, or end it"
        ) from error


def _locked(stored: Plan, plan: Plan, chosen: list[Experiment], out: Path, options: Options, jobs: int) -> int:
    todo = jobs_of(plan, chosen, out)
    gpu = (plan.settings.get("trainer") or {}).get("accelerator") != "cpu"
    pool: Pool = Processes(jobs) if options.ray is None else RayTasks(options.ray, options.jobs, plan.threads, gpu)
    total = sum(epochs_of(plan, plan[job.experiment]) for job in todo)
    # a line a run where nobody watches
    with tqdm(total=total, unit="epoch", desc=plan.name, dynamic_ncols=True, disable=None) as bar:
        first = sum(epochs_of(plan, plan[job.experiment]) for job in todo if is_complete(job))
        bar.initial = bar.n = first  # time left is told from what is run now
        try:
            with _terminable():
                outcome = run_jobs(plan, todo, pool, partial(_report, bar, out))
        except KeyboardInterrupt as stop:
            pool.close()
            bar.close()
            print("\nInterrupted. The same command goes on where this one stopped.", file=sys.stderr)
            return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
        finally:
            pool.close()
    _check_there(out)
    write_report(out)
    return _sum_up(outcome)


def _plan(options: Options) -> tuple[Plan, Path, str]:
    """The plan with all that was typed, its folder, and a remark on its initial weights."""
    plan = load_plan(options.plan)
    plan = replace(
        plan, settings=reduce(merge, options.settings, plan.settings), threads=options.threads or plan.threads
    )
    if options.seeds is not None:
        plan = plan.with_seeds(options.seeds)
    out = options.out or Path("lightning_logs") / plan.name
    if options.weights is None and (out / "plan.yaml").is_file():
        # a folder keeps the weights that it began with, though others may be at hand by now
        return replace(plan, initial_weights=stored_plan(out).initial_weights), out, ""
    if options.weights is None and plan.initial_weights in (None, "random"):
        return plan, out, ""
    from lit_prune.study.run.preflight import with_weights

    plan, sentence = with_weights(plan, options.weights)
    return plan, out, sentence


def _report(bar: "tqdm[None]", out: Path, progress: Progress) -> None:
    _show(bar, progress)
    _check_there(out)  # the next run would make it again, and find no plan in it


def _check_there(out: Path) -> None:
    if not (out / "plan.yaml").is_file():
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(out / "plan.yaml"))


def _show(bar: "tqdm[None]", progress: Progress) -> None:
    bar.n = max(bar.n, min(progress.epochs, bar.total))
    names = [f"{job.experiment} (seed {job.seed})" for job in progress.running]
    bar.set_postfix_str(", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else ""))
    if (job := progress.ended) is not None:
        what = f"failed: {progress.problem}" if progress.problem else "complete"
        line = f"{job.experiment} (seed {job.seed}): {what}"
        tqdm.write(line) if not bar.disable else print(line, flush=True)


def _overview(plan: Plan, chosen: list[Experiment], out: Path, jobs: int) -> str:
    from lit_prune.study.run.preflight import seconds_per_epoch

    todo = [job for job in jobs_of(plan, chosen, out) if not is_complete(job)]
    epochs = sum(epochs_of(plan, plan[job.experiment]) for job in todo)
    width = max(len(experiment.name) for experiment in chosen)
    start = plan.initial_weights or "its own"
    rows = [
        f"  {experiment.name:{width}}  {epochs_of(plan, experiment) if experiment.train else 'no':>4} epochs  "
        f"from {experiment.parent or f'{start} weights'}"
        for experiment in chosen
    ]
    each = seconds_per_epoch(plan)
    duration = "" if each is None else f", about {_duration(epochs * each / jobs)} on this machine with {jobs} at once"
    seeds = ", ".join(map(str, plan.seeds))
    head = f"{plan.name}: {len(chosen)} experiments, seeds {seeds}, in {out}"
    return "\n".join([head, *rows, f"{len(todo)} runs to do, {epochs} epochs{duration}."])


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{max(minutes, 1)} min"


def _sum_up(outcome: Outcome) -> int:
    for job, problem in outcome.failed.items():
        print(f"lit-prune: failed: {job.experiment} (seed {job.seed}): {problem}", file=sys.stderr)
    for job in outcome.left_out:
        print(f"lit-prune: left out, for its parent failed: {job.experiment} (seed {job.seed})", file=sys.stderr)
    return 1 if outcome.failed or outcome.left_out else 0
