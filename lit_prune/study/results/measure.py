"""The measures of one run, computed from its files."""

import math
import statistics
from collections.abc import Mapping

from lit_prune.study.results.run_files import Logged, Scores


def measure(logged: Logged, scores: Scores, metrics: Mapping[str, str], train: bool) -> dict[str, float]:
    """Compute every measure for which a run has the values.

    Args:
        logged: Curves of the run.
        scores: Test scores of the run.
        metrics: Role to logged name.
        train: Whether the run trained; without training, there are no measures over epochs.

    Returns:
        By name in `MEASURES`, finite values.
    """
    found = _measure_curves(logged, train) | _measure_tests(logged, scores, metrics) | _measure_sparsity(logged, train)
    if train:
        found["epochs"] = scores.epochs
        if seconds := _points(logged, "seconds"):
            found["seconds_per_epoch"] = statistics.median(value for _, value in seconds)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _points(logged: Logged, curve: str) -> list[tuple[int, float]]:
    values = logged.curves.get(curve, ())
    return [(epoch, value) for epoch, value in zip(logged.epochs, values, strict=bool(values)) if value is not None]


def _measure_curves(logged: Logged, train: bool) -> dict[str, float]:
    found = {}
    for role in ("train_loss", "train_acc", "val_loss", "val_acc"):
        if points := _points(logged, role):
            found[f"final_{role}"] = points[-1][1]
            if role.endswith("_acc"):
                found[f"best_{role}"] = max(value for _, value in points)
    if points := _points(logged, "val_loss"):
        found["lowest_val_loss"] = min(value for _, value in points)
    if train and (points := _points(logged, "val_acc")):
        found["first_val_acc"] = points[0][1]
        enough = 0.99 * found["best_val_acc"]
        reached = [epoch for epoch, value in points if value >= enough]
        if reached:  # none if the best value is NaN
            found["epochs_to_99"] = reached[0] + 1
    return found


def _measure_tests(logged: Logged, scores: Scores, metrics: Mapping[str, str]) -> dict[str, float]:
    last, best = scores.tests.get("last", {}), scores.tests.get("best")
    points = _points(logged, "val_acc")
    if best is None and points and max(points, key=lambda point: point[1])[0] == logged.epochs[-1]:
        best = last  # the last epoch is the best one, and was scored once
    found = {
        "final_test_acc": last.get(metrics.get("test_acc", "")),
        "final_test_loss": last.get(metrics.get("test_loss", "")),
        "test_acc_at_best": (best or {}).get(metrics.get("test_acc", "")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _measure_sparsity(logged: Logged, train: bool) -> dict[str, float]:
    found = {name: points[-1][1] for name in ("untouched", "untouched_pruned") if (points := _points(logged, name))}
    points = _points(logged, "sparsity")
    if not points:
        return found
    pruned = _points(logged, "ever_pruned")
    # where masks were removed at once, sparsity has already fallen when the first epoch ends; a run that prunes
    # nothing can have inherited zeros, for which the first epoch is the earliest count
    found["sparsity_start"] = pruned[0][1] if pruned and pruned[0][1] > 0 else points[0][1]
    found["sparsity_end"] = points[-1][1]
    if train:
        values = [value for _, value in points]
        found["sparsity_range"] = max(values) - min(values)
        late = [value for epoch, value in points if epoch + 1 >= 2 * (logged.epochs[-1] + 1) / 3]
        found["sparsity_late_fall"] = late[0] - late[-1]
    return found
