"""The tables of a report, and the one for machines."""

import csv
import io
from collections.abc import Sequence

from lit_prune.files.nested import merge
from lit_prune.study.measures import MEASURES, QUANTITIES, estimate_text
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.report.markdown import table
from lit_prune.study.results.results import Results, seeds_text
from lit_prune.study.statistics import estimate

__all__ = ["group_tables", "groups", "plateau_table", "results_csv", "unfrozen"]

# the tables of a group: first column's title -> measures
_TABLES = {
    "accuracy, %": (
        "best_train_acc",
        "best_val_acc",
        "test_acc_at_best",
        "final_train_acc",
        "final_val_acc",
        "final_test_acc",
    ),
    "loss (nats), sparsity, time": (
        "lowest_val_loss",
        "final_train_loss",
        "final_val_loss",
        "final_test_loss",
        "sparsity_start",
        "sparsity_end",
        "epochs_to_99",
        "seconds_per_epoch",
    ),
}
_NONE = "-"


def results_csv(results: Results) -> str:
    """Write every run as one line, with all digits."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["experiment", "seed", "status", "note", *MEASURES])
    for run in results.runs:
        values = [repr(run.measures[name]) if name in run.measures else "" for name in MEASURES]
        writer.writerow([run.experiment, run.seed, run.status, run.note, *values])
    return out.getvalue()


def groups(plan: Plan) -> dict[str, list[Experiment]]:
    """Sort experiments by the first part of their names, in the plan's order."""
    found: dict[str, list[Experiment]] = {}
    for experiment in plan.experiments:
        found.setdefault(experiment.name.split("/")[0], []).append(experiment)
    return found


def group_tables(results: Results, experiments: Sequence[Experiment]) -> list[str]:
    """Lay out the tables of a group of experiments: a mean with its interval in each cell.

    Columns of which no run has a value are left out, and so are tables without columns.
    """
    tables = []
    for title, measures in _TABLES.items():
        used = [m for m in measures if any(m in run.measures for e in experiments for run in results.of(e.name))]
        if used:
            header = [title, "starts from", "seeds", *(QUANTITIES[m].column for m in used)]
            rows = [
                [_short(e.name), _origin(e), seeds_of(results, e.name), *(_cell(results, e.name, m) for m in used)]
                for e in experiments
            ]
            tables.append(table(header, rows, left=2))
    return tables


def unfrozen(plan: Plan) -> list[Experiment]:
    """The experiments whose masks are taken away, so that what was pruned can grow again."""
    return [e for e in plan.experiments if e.train and any(_leaf(c) == "PruningRemoval" for c in _callbacks(plan, e))]


def plateau_table(results: Results) -> str:
    """Compare where sparsity stops, after masks were taken away, with what cannot move. "" if nothing was measured."""
    rows = []
    for experiment in unfrozen(results.plan):
        ends = results.values(experiment.name, "sparsity_end")
        dead = results.values(experiment.name, "untouched_pruned")
        gaps = [ends[seed] - dead[seed] for seed in ends if seed in dead]
        measures = ("sparsity_start", "sparsity_end", "untouched_pruned")
        cells = [_cell(results, experiment.name, measure, digits=3) for measure in measures]
        between = estimate(gaps)
        share = QUANTITIES["sparsity_end"]
        if between is None:
            cells += [_diverged(results, experiment.name) or _NONE] * 2
        else:
            cells += [estimate_text(share, between, 4), share.text(max(map(abs, gaps)), 4)]
        if any("sparsity_end" in run.measures for run in results.of(experiment.name)):
            rows.append([experiment.name, seeds_of(results, experiment.name), *cells])
    header = [
        "all in % of the weights",
        "seeds",
        "sparsity at start",
        "sparsity at end",
        "pruned and untouched",
        "end less pruned and untouched",
        "largest difference of a seed",
    ]
    return table(header, rows) if rows else ""


def seeds_of(results: Results, experiment: str) -> str:
    """How many seeds an experiment has: "3", or "2 of 3"."""
    complete, planned = len(results.with_status(experiment, "complete")), len(results.plan.seeds)
    return str(complete) if complete == planned else f"{complete} of {planned}"


def _cell(results: Results, experiment: str, measure: str, digits: int | None = None) -> str:
    if diverged := _diverged(results, experiment):
        return diverged
    values = results.values(experiment, measure)
    found = estimate(values.values())
    if found is None:
        return _NONE
    text = estimate_text(QUANTITIES[measure], found, digits)
    complete = len(results.with_status(experiment, "complete"))
    return text if found.n == complete else f"{text} (n = {found.n})"


def _diverged(results: Results, experiment: str) -> str:
    runs = results.with_status(experiment, "diverged")
    return f"diverged ({seeds_text(run.seed for run in runs)})" if runs else ""


def _short(name: str) -> str:
    return name.split("/", 1)[-1]


def _origin(experiment: Experiment) -> str:
    if experiment.parent is None:
        return "initial weights"
    return experiment.parent if experiment.checkpoint == "last" else f"{experiment.parent} ({experiment.checkpoint})"


def _callbacks(plan: Plan, experiment: Experiment) -> list[object]:
    trainer = merge(plan.settings, experiment.overrides).get("trainer")
    given = trainer.get("callbacks") if isinstance(trainer, dict) else None
    return list(given) if isinstance(given, list) else [given]


def _leaf(callback: object) -> str:
    name = callback.get("class_path") if isinstance(callback, dict) else callback
    return str(name).rsplit(".", 1)[-1]
