"""The Markdown tables of a report, and the content of results.csv."""

import csv
import io
from collections.abc import Sequence

from lit_prune.study.measures import MEASURES, format_estimate
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import has_removal
from lit_prune.study.statistics import estimate

# the two tables of each group of experiments: title of the first column -> measures in the other columns
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
        "sparsity_at_best",
        "sparsity_end",
        "epochs_to_99",
        "seconds_per_epoch",
    ),
}
_NONE = "-"


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Return a padded Markdown table: the first `left` columns are left-aligned, all others right-aligned."""
    lines = [[" ".join(text.split()).replace("|", "\\|") for text in row] for row in (header, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*lines, strict=True)]

    def align(row: Sequence[str]) -> list[str]:
        pairs = zip(row, widths, strict=True)
        return [cell.ljust(width) if i < left else cell.rjust(width) for i, (cell, width) in enumerate(pairs)]

    rule = ["-" * w if i < left else "-" * (w - 1) + ":" for i, w in enumerate(widths)]
    return "\n".join(f"| {' | '.join(row)} |" for row in (align(lines[0]), rule, *map(align, lines[1:])))


def results_csv(results: Results) -> str:
    """Return CSV text with one line of measures for every run; numbers are not rounded."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["experiment", "seed", "status", "note", *MEASURES])
    for run in results.runs:
        values = [repr(run.measures[name]) if name in run.measures else "" for name in MEASURES]
        writer.writerow([run.experiment, run.seed, run.status, run.note, *values])
    return out.getvalue()


def group_tables(results: Results, experiments: Sequence[Experiment]) -> list[str]:
    """Return the tables of a group of experiments, which show means over seeds with their intervals.

    Measures without values are left out, and so are tables without any measure.
    """
    tables = []
    for title, measures in _TABLES.items():
        used = [m for m in measures if any(m in run.measures for e in experiments for run in results.of(e.name))]
        if used:
            header = [title, "starts from", "seeds", *(MEASURES[m].column for m in used)]
            rows = []
            for e in experiments:
                cells = (_cell(results, e.name, measure) for measure in used)
                rows.append([e.name.split("/", 1)[-1], _origin(e), _count_seeds(results, e.name), *cells])
            tables.append(markdown_table(header, rows, left=2))
    return tables


def experiments_with_removal(plan: Plan) -> list[Experiment]:
    """Return the experiments that train and remove their masks."""
    return [experiment for experiment in plan.experiments if experiment.train and has_removal(plan, experiment)]


def plateau_table(results: Results) -> str:
    """Return the table of "Why sparsity stops falling", with the `experiments_with_removal`; "" if there are none."""
    rows = []
    for experiment in experiments_with_removal(results.plan):
        name = experiment.name
        ends, dead = results.values(name, "sparsity_end"), results.values(name, "untouched_pruned")
        gaps = [ends[seed] - dead[seed] for seed in ends if seed in dead]
        measures = ("sparsity_start", "sparsity_end", "untouched_pruned")
        cells = [_cell(results, name, measure, digits=3) for measure in measures]
        mean, share = estimate(gaps), MEASURES["sparsity_end"]
        if mean is None:
            cells += [results.diverged(name) or _NONE] * 2
        else:
            cells += [format_estimate(share, mean, 4), share.format(max(map(abs, gaps)), 4)]
        if any("sparsity_end" in run.measures for run in results.of(name)):
            rows.append([name, _count_seeds(results, name), *cells])
    header = [
        "% of the weights",
        "seeds",
        "sparsity at start",
        "sparsity at end",
        "pruned and untouched",
        "end minus pruned and untouched",
        "largest difference of a seed",
    ]
    return markdown_table(header, rows) if rows else ""


def _count_seeds(results: Results, experiment: str) -> str:
    """Return the number of complete runs: "3", or "2 of 3" if some are not complete."""
    complete, planned = len(results.with_status(experiment, "complete")), len(results.plan.seeds)
    return str(complete) if complete == planned else f"{complete} of {planned}"


def _cell(results: Results, experiment: str, measure: str, digits: int | None = None) -> str:
    if diverged := results.diverged(experiment):
        return diverged
    found = estimate(results.values(experiment, measure).values())
    if found is None:
        return _NONE
    text = format_estimate(MEASURES[measure], found, digits)
    complete = len(results.with_status(experiment, "complete"))
    return text if found.n == complete else f"{text} (n = {found.n})"


def _origin(experiment: Experiment) -> str:
    if experiment.parent is None:
        return "initial weights"
    return experiment.parent if experiment.checkpoint == "last" else f"{experiment.parent} ({experiment.checkpoint})"
