"""Read the folder of a study, whether or not all its runs are complete."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lit_prune.cli.tables import pluralize
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.stored import stored_plan
from lit_prune.study.results.compute_measures import compute_measures
from lit_prune.study.results.run_files import (
    Curve,
    Logged,
    RunResult,
    UnreadableError,
    read_error,
    read_logged,
    read_result,
)
from lit_prune.training.run_folder import ERROR, METRICS, RESULT


@dataclass(frozen=True)
class Run:
    """The results of one experiment with one seed.

    Attributes:
        experiment: Name of the experiment.
        seed: Random seed.
        folder: Folder with the files of the run.
        status: "complete"; "diverged" (finished, but a loss is NaN or infinite); "failed" (has an `error.txt` or a
            damaged file); "unfinished" (has files, but no `result.json`); or "missing" (has no files).
        note: Reason for the status, or metrics that are missing from a complete run: a phrase without a full stop, or
            "" if there is nothing to say.
        epochs: Epochs with values, ascending, counted from 0.
        curves: Logged curves by name: train_loss, train_acc, val_loss, val_acc, sparsity, masked, ever_pruned,
            untouched, untouched_pruned and seconds.
        layers: The sparsity curve of each layer, by name of the layer.
        measures: Measures that are finite, by name in `MEASURES`. Empty unless the run is complete or diverged.
        initial_weights: "random", the name or path of pre-trained weights, or "parent" (another experiment's weights).
            None if unknown.
        environment: Versions of packages, device and number of threads. Empty for a run without a `result.json`.
        seconds: Duration of the run, with its tests; for a resumed run, only since it was resumed. NaN if unknown.
    """

    experiment: str
    seed: int
    folder: Path
    status: str
    note: str = ""
    epochs: tuple[int, ...] = ()
    curves: Mapping[str, Curve] = field(default_factory=dict)
    layers: Mapping[str, Curve] = field(default_factory=dict)
    measures: Mapping[str, float] = field(default_factory=dict)
    initial_weights: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan

    def finite_curve(self, name: str) -> Curve:
        """Return a curve without its NaN and infinite values; empty if the curve was not logged."""
        return {epoch: value for epoch, value in self.curves.get(name, {}).items() if math.isfinite(value)}


@dataclass(frozen=True)
class Results:
    """The results of a study.

    Attributes:
        folder: The study's folder.
        plan: The study's plan.
        runs: All runs of the plan, finished or not, sorted by experiment (in the plan's order) and then by seed.
    """

    folder: Path
    plan: Plan
    runs: tuple[Run, ...]

    def started(self) -> "Results":
        """Return the results of the experiments with at least one started run, and claims about only these experiments.

        If no run has started, return all results.
        """
        names = {run.experiment for run in self.runs if run.status != "missing"}
        if not names:
            return self
        experiments = tuple(experiment for experiment in self.plan.experiments if experiment.name in names)
        claims = tuple(c for c in self.plan.claims if all(contrast.experiments() <= names for contrast in c.contrasts))
        plan = replace(self.plan, experiments=experiments, claims=claims)
        return replace(self, plan=plan, runs=tuple(run for run in self.runs if run.experiment in names))

    def groups(self) -> dict[str, list[Experiment]]:
        """Group the experiments by the part of their names before the first slash, in the plan's order."""
        found: dict[str, list[Experiment]] = {}
        for experiment in self.plan.experiments:
            found.setdefault(experiment.name.split("/")[0], []).append(experiment)
        return found

    def of(self, experiment: str) -> tuple[Run, ...]:
        """Return the runs of an experiment, by ascending seed."""
        return tuple(run for run in self.runs if run.experiment == experiment)

    def with_status(self, experiment: str, status: str) -> tuple[Run, ...]:
        """Return those runs of an experiment that have the given status."""
        return tuple(run for run in self.of(experiment) if run.status == status)

    def values(self, experiment: str, measure: str) -> dict[int, float]:
        """Return the values of a measure in the complete runs of an experiment, by seed.

        The result is empty if any run of the experiment diverged: a mean over only the other runs would look too good.
        """
        if self.with_status(experiment, "diverged"):
            return {}
        complete = self.with_status(experiment, "complete")
        return {run.seed: run.measures[measure] for run in complete if measure in run.measures}

    def mean_curve(self, experiment: str, name: str) -> Curve:
        """Average a curve over the complete runs of an experiment, in the epochs that all these runs have.

        Later epochs of longer runs are left out, because a mean over fewer seeds would not be comparable. The result is
        empty if any run of the experiment diverged or no run has the curve.
        """
        if self.with_status(experiment, "diverged"):
            return {}
        curves = [found for run in self.with_status(experiment, "complete") if (found := run.finite_curve(name))]
        common = sorted(set.intersection(*map(set, curves))) if curves else []
        return {epoch: math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in common}

    def diverged(self, experiment: str) -> str:
        """Return which seeds of an experiment diverged, such as "diverged (seed 1)", or "" for none."""
        runs = self.with_status(experiment, "diverged")
        return f"diverged ({format_seeds(run.seed for run in runs)})" if runs else ""


def read_results(folder: str | Path) -> Results:
    """Read the folder of a study. Runs may be missing, unfinished or damaged; see `Run.status`.

    Raises:
        InputError: If the folder does not exist or holds no valid plan.
    """
    folder = Path(folder)
    plan = stored_plan(folder)
    runs = [_read_run(folder, plan, e, seed) for e in plan.experiments for seed in sorted(plan.seeds)]
    return Results(folder, plan, tuple(runs))


def format_seeds(seeds: Iterable[int]) -> str:
    """Join seeds into a phrase, such as "seed 1" or "seeds 0, 2"."""
    names = [str(seed) for seed in seeds]
    return f"seed{'s' if len(names) > 1 else ''} {', '.join(names)}"


def _read_run(study: Path, plan: Plan, experiment: Experiment, seed: int) -> Run:
    folder = study / experiment.name / f"seed={seed}"
    run = Run(experiment.name, seed, folder, "missing", "not started")
    try:
        if not folder.is_dir() or not any(folder.iterdir()):
            return run
        if not (folder / RESULT).exists():
            return _without_result(run, plan, experiment)
        result = read_result(folder / RESULT, experiment.name, seed)
        logged = read_logged(folder / METRICS, plan.metrics, experiment.train)
        return _with_result(run, plan, experiment, logged, result)
    except UnreadableError as error:
        return replace(run, status="failed", note=str(error))
    except OSError as error:  # for example, no permission to list the folder
        return replace(run, status="failed", note=f"its folder cannot be read ({error.strerror})")


def _without_result(run: Run, plan: Plan, experiment: Experiment) -> Run:
    try:
        logged = read_logged(run.folder / METRICS, plan.metrics, experiment.train)
    except UnreadableError:  # the run may have been killed while it wrote a line
        logged = Logged((), {}, {}, ())
    run = replace(run, epochs=logged.epochs, curves=logged.curves, layers=logged.layers)
    if (error := run.folder / ERROR).exists():
        return replace(run, status="failed", note=read_error(error))
    epochs = logged.epochs[-1] + 1 if logged.epochs else 0
    return replace(run, status="unfinished", note=f"unfinished after {pluralize(epochs, 'epoch')}")


def _with_result(run: Run, plan: Plan, experiment: Experiment, logged: Logged, result: RunResult) -> Run:
    found, needed = logged.epochs[-1] + 1 if logged.epochs else 0, max(result.epochs, 1)
    if found < needed:
        raise UnreadableError(f"{METRICS} ends after {found} of {needed} epochs")
    status, note = "complete", ""
    if broken := _find_nonfinite(logged, plan, result):
        status, note = "diverged", broken
    elif logged.absent:
        note = f"{METRICS} has no column {', '.join(f'`{name}`' for name in logged.absent)}"
    return replace(
        run,
        status=status,
        note=note,
        epochs=logged.epochs,
        curves=logged.curves,
        layers=logged.layers,
        measures=compute_measures(logged, result, plan.metrics, experiment.train),
        initial_weights=result.initial_weights,
        environment=result.environment,
        seconds=result.seconds,
    )


def _find_nonfinite(logged: Logged, plan: Plan, result: RunResult) -> str:
    for epoch in logged.epochs:
        for role in ("train_loss", "val_loss"):
            if not math.isfinite(value := logged.curves.get(role, {}).get(epoch, 0.0)):
                return f"`{plan.metrics[role]}` is {value} in epoch {epoch}"
    name = plan.metrics.get("test_loss", "")
    for tests in result.tests.values():
        if not math.isfinite(value := tests.get(name, 0.0)):
            return f"`{name}` is {value}"
    return ""
