"""The section "Next to the original study" of a report."""

from lit_prune.study.measures import MEASURES, format_estimate
from lit_prune.study.report.tables import markdown_table
from lit_prune.study.results.original import REPORTED, REPORTED_SPARSITY
from lit_prune.study.results.published import uses_cifar10
from lit_prune.study.results.results import Results
from lit_prune.study.statistics import estimate

_NONE = "-"
_TEXT = (
    "For each experiment, the table has what the original study reported and what this study measured. The original "
    "study trained for 55 to 350 epochs on all training images, from ImageNet weights (*initial*) or from its own "
    "trained network (*finetuned*); its batch norms always used the running statistics of the initial weights, as in "
    "`control/frozen-batch-norm`. It also chose the best epoch by the accuracy on the test images; here, the "
    "best epoch is chosen on validation images. Accuracies are percentages; a dash means that there is no value."
)
_SPARSITY = (
    "Sparsity in per cent at the end of epochs (counted from 0), in the original study and here. A dash means that the "
    "epoch was not reported or not trained."
)
# field of `Reported` -> title of its columns, and the measure of this study that corresponds to it
_COLUMNS = {
    "best_train_acc": ("best train", "best_train_acc"),
    "best_test_acc": ("best on test images", "test_acc_at_best"),
    "first_val_acc": ("first epoch", "first_val_acc"),
    "lowest_val_loss": ("lowest loss", "lowest_val_loss"),
}


def compare_with_original(results: Results) -> list[str]:
    """Return the section's paragraphs and tables; none if no experiment of the original study ran on CIFAR-10."""
    if not uses_cifar10(results.plan):
        return []
    names = [experiment.name for experiment in results.plan.experiments]
    rows = [[name, *_compare(results, name)] for name in names if name.split("/")[0].startswith("task")]
    if not any(name in REPORTED for name in names):
        return []
    header = ["", *(f"{title}: {study}" for title, _ in _COLUMNS.values() for study in ("original", "here"))]
    found = [_TEXT, markdown_table(header, rows)]
    if sparsity := _sparsity_table(results):
        found += [_SPARSITY, sparsity]
    return found


def _compare(results: Results, name: str) -> list[str]:
    cells = []
    for key, (_, measure) in _COLUMNS.items():
        said = getattr(REPORTED.get(name), key, None)
        mean = estimate(results.values(name, measure).values())
        digits = 2 if measure.endswith("loss") else 1
        cells.append(_NONE if said is None else MEASURES[measure].format(said, digits))
        cells.append(_NONE if mean is None else format_estimate(MEASURES[measure], mean))
    return cells


def _sparsity_table(results: Results) -> str:
    names = {experiment.name for experiment in results.plan.experiments}
    here = {
        name: {epoch: 100 * value for epoch, value in results.mean_curve(name, "sparsity").items()}
        for name in REPORTED_SPARSITY
        if name in names
    }
    here = {name: curve for name, curve in here.items() if curve}
    shown = [{*REPORTED_SPARSITY[name], 0, max(curve)} for name, curve in here.items()]
    epochs = sorted(set().union(*shown))
    rows = []
    for name, curve in here.items():
        for study, values in (("original", REPORTED_SPARSITY[name]), ("here", curve)):
            rows.append([f"{name}: {study}", *(f"{values[e]:.4f}" if e in values else _NONE for e in epochs)])
    return markdown_table(["epoch", *map(str, epochs)], rows) if rows else ""
