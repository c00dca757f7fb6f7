"""Compute the measures of one run from the content of its files."""

import math
import statistics
from collections.abc import Mapping

from lit_prune.study.results.run_files import ROLES, Logged, RunResult


def compute_measures(logged: Logged, result: RunResult, metrics: Mapping[str, str], train: bool) -> dict[str, float]:
    """Return the finite measures of a run, by name in `MEASURES`; without `train`, no measures of training progress."""
    found = _measure_curves(logged, train) | _measure_tests(logged, result, metrics) | _measure_sparsity(logged, train)
    if train:
        found["epochs"] = result.epochs
        if seconds := logged.curves.get("seconds"):
            found["seconds_per_epoch"] = statistics.median(seconds.values())
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _measure_curves(logged: Logged, train: bool) -> dict[str, float]:
    found = {}
    for role in ROLES:
        curve = logged.curves.get(role, {})
        if curve and logged.epochs[-1] in curve:  # it may be validated in some epochs only
            found[f"final_{role}"] = curve[logged.epochs[-1]]
        if curve and role.endswith("_acc"):
            found[f"best_{role}"] = max(curve.values())
    if losses := logged.curves.get("val_loss"):
        found["lowest_val_loss"] = min(losses.values())
    if train and (accuracies := logged.curves.get("val_acc")):
        if 0 in accuracies:
            found["first_val_acc"] = accuracies[0]
        enough = 0.99 * found["best_val_acc"]
        reached = [epoch for epoch, value in accuracies.items() if value >= enough]
        if reached:  # empty if the best accuracy is NaN
            found["epochs_to_99"] = reached[0] + 1
    return found


def _measure_tests(logged: Logged, result: RunResult, metrics: Mapping[str, str]) -> dict[str, float]:
    last, best = result.tests.get("last", {}), result.tests.get("best")
    if best is None and _best_epoch(logged) == logged.epochs[-1]:
        best = last  # the last epoch is the best one, so its checkpoint was tested only once
    found = {
        "final_test_acc": last.get(metrics.get("test_acc", "")),
        "final_test_loss": last.get(metrics.get("test_loss", "")),
        "test_acc_at_best": (best or {}).get(metrics.get("test_acc", "")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _best_epoch(logged: Logged) -> int | None:
    """Return the epoch of the best validation accuracy."""
    accuracies = logged.curves.get("val_acc", {})
    return max(accuracies, key=lambda epoch: accuracies[epoch], default=None)


def _measure_sparsity(logged: Logged, train: bool) -> dict[str, float]:
    values = {name: list(curve.values()) for name, curve in logged.curves.items() if curve}
    found: dict[str, float] = {name: values[name][-1] for name in ("untouched", "untouched_pruned") if name in values}
    if "sparsity" not in values:
        return found
    sparsity = values["sparsity"]
    # Sparsity is logged only at the end of each epoch, when it may differ from that before training. So the masked
    # fraction of the first epoch is used, which changes of the masks keep; if no weight is masked, because the masks
    # were removed right after pruning, the fraction of weights that were ever pruned; if both are 0, the first logged
    # sparsity, because a run that prunes nothing may start with the zeros of its parent.
    first = (values[name][0] for name in ("masked", "ever_pruned") if name in values)
    found["sparsity_start"] = next((value for value in first if value > 0), sparsity[0])
    found["sparsity_end"] = sparsity[-1]
    if train:
        if len(sparsity) > 1:
            found["sparsity_range"] = max(sparsity) - min(sparsity)
        best = _best_epoch(logged)
        if best is not None and best in logged.curves["sparsity"]:
            found["sparsity_at_best"] = logged.curves["sparsity"][best]
        epochs = logged.epochs[-1] + 1
        late = [value for epoch, value in logged.curves["sparsity"].items() if epoch + 1 >= 2 * epochs / 3]
        if len(late) > 1:
            found["sparsity_late_fall"] = late[0] - late[-1]
    return found
