"""A study's folder, complete or not, as values."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.stored import stored_plan
from lit_prune.study.results.measure import measure
from lit_prune.study.results.run_files import (
    Ended,
    Logged,
    UnreadableError,
    is_broken,
    read_ended,
    read_error,
    read_logged,
)

__all__ = ["Results", "Run", "read_results", "seeds_text"]

_LOSSES = ("train_loss", "val_loss")


@dataclass(frozen=True)
class Run:
    """One experiment with one seed.

    Attributes:
        experiment: Its name.
        seed: Its seed.
        folder: Where its files are.
        status: "complete"; "diverged", which ended, but with a loss that is no number or infinite; "failed";
            "unfinished", with some files and no result; or "missing", with none.
        note: Why it is so, one sentence without a full stop; "" where there is nothing to say.
        epochs: Those that have values, ascending.
        curves: By role (train_loss, train_acc, val_loss, val_acc) and by "sparsity", "ever_pruned", "untouched",
            "untouched_pruned" and "seconds": one value an epoch, nan where there is none. Only what was logged; of an
            unfinished run as far as it came.
        layers: Sparsity by the name of the layer, likewise.
        measures: The names of `MEASURES` that this run has, each finite; none unless it is complete or diverged.
        initial_weights: What it started from: "random", the name or path of weights, or "parent". None if unknown.
        environment: Versions and device, if it has ended.
    """

    experiment: str
    seed: int
    folder: Path
    status: str
    note: str = ""
    epochs: tuple[int, ...] = ()
    curves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    layers: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    initial_weights: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Results:
    """A study and what has come of it.

    Attributes:
        folder: The study's folder.
        plan: What was to be run.
        runs: Every experiment and seed of the plan, in the plan's order with seeds ascending.
    """

    folder: Path
    plan: Plan
    runs: tuple[Run, ...]

    def of(self, experiment: str) -> tuple[Run, ...]:
        """The runs of an experiment, seeds ascending."""
        return tuple(run for run in self.runs if run.experiment == experiment)

    def with_status(self, experiment: str, status: str) -> tuple[Run, ...]:
        """The runs of an experiment that have a status."""
        return tuple(run for run in self.of(experiment) if run.status == status)

    def values(self, experiment: str, measure: str) -> dict[int, float]:
        """A measure by seed, over complete runs.

        Returns:
            An empty mapping if a seed of the experiment diverged: what the others say is not what the experiment does.
        """
        if self.with_status(experiment, "diverged"):
            return {}
        complete = self.with_status(experiment, "complete")
        return {run.seed: run.measures[measure] for run in complete if measure in run.measures}


def read_results(folder: str | Path) -> Results:
    """Read a study's folder.

    Args:
        folder: As `lit-prune study` writes it. Runs may be missing, cut off or broken; their status says so.

    Raises:
        InputError: If there is no such folder, or no plan in it that can be read.
    """
    folder = Path(folder)
    plan = stored_plan(folder)
    runs = [_read_run(folder, plan, e, seed) for e in plan.experiments for seed in sorted(plan.seeds)]
    return Results(folder, plan, tuple(runs))


def seeds_text(seeds: Iterable[int]) -> str:
    """Name seeds: "seed 1", "seeds 0, 2"."""
    names = [str(seed) for seed in seeds]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _read_run(study: Path, plan: Plan, experiment: Experiment, seed: int) -> Run:
    folder = study / experiment.name / f"seed={seed}"
    run = Run(experiment.name, seed, folder, "missing", "not started")
    if not folder.is_dir() or not any(folder.iterdir()):
        return run
    try:
        if not (folder / "result.json").exists():
            return _without_result(run, plan, experiment)
        ended = read_ended(folder / "result.json", experiment.name, seed)
        logged = read_logged(folder / "metrics.csv", plan.metrics, experiment.train)
        return _with_result(run, plan, experiment, logged, ended)
    except UnreadableError as error:
        return replace(run, status="failed", note=str(error))
    except OSError as error:  # a folder that may not be looked into
        return replace(run, status="failed", note=f"its folder cannot be read ({error.strerror})")


def _without_result(run: Run, plan: Plan, experiment: Experiment) -> Run:
    failed = run.folder / "error.txt"
    try:
        logged = read_logged(run.folder / "metrics.csv", plan.metrics, experiment.train)
    except UnreadableError:  # it may have been cut off within a line; nothing is concluded from it
        logged = Logged((), {}, {}, ())
    run = _with_curves(run, logged)
    if failed.exists():
        return replace(run, status="failed", note=read_error(failed))
    came = f"its last logged epoch is {logged.epochs[-1]}" if logged.epochs else "no epoch is logged"
    return replace(run, status="unfinished", note=f"not finished, {came}")


def _with_result(run: Run, plan: Plan, experiment: Experiment, logged: Logged, ended: Ended) -> Run:
    rows = logged.epochs[-1] + 1 if logged.epochs else 0
    if rows < max(ended.epochs, 1):
        raise UnreadableError(f"metrics.csv ends after {rows} of {max(ended.epochs, 1)} epochs")
    status, note = "complete", ""
    if broken := _first_broken(logged, plan, ended):
        status, note = "diverged", broken
    elif logged.absent:
        note = f"metrics.csv has no column {', '.join(f'`{name}`' for name in logged.absent)}"
    return replace(
        _with_curves(run, logged),
        status=status,
        note=note,
        measures=measure(logged, ended, plan.metrics, experiment.train),
        initial_weights=ended.initial_weights,
        environment=ended.environment,
    )


def _first_broken(logged: Logged, plan: Plan, ended: Ended) -> str:
    losses = {plan.metrics[role]: logged.curves[role] for role in _LOSSES if role in logged.curves}
    for index, epoch in enumerate(logged.epochs):
        for name, values in losses.items():
            if is_broken(values[index]):
                return f"`{name}` is {values[index]} in epoch {epoch}"
    name = plan.metrics.get("test_loss", "")
    broken = [scores[name] for scores in ended.tests.values() if is_broken(scores.get(name))]
    return f"`{name}` is {broken[0]}" if broken else ""


def _with_curves(run: Run, logged: Logged) -> Run:
    return replace(
        run,
        epochs=logged.epochs,
        curves={name: _filled(values) for name, values in logged.curves.items()},
        layers={name: _filled(values) for name, values in logged.layers.items()},
    )


def _filled(values: tuple[float | None, ...]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else value for value in values)
