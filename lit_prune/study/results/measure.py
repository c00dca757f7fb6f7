"""From what a run logged to the numbers of `MEASURES`."""

import math
import statistics
from collections.abc import Mapping

from lit_prune.study.results.run_files import Ended, Logged

__all__ = ["measure"]

Points = list[tuple[int, float]]  # epoch, value


def measure(logged: Logged, ended: Ended, metrics: Mapping[str, str], train: bool) -> dict[str, float]:
    """Compute every measure that a run allows.

    Args:
        logged: Its curves.
        ended: Its test scores.
        metrics: Role to logged name.
        train: Whether it trained; what needs epochs is left out otherwise.

    Returns:
        By the names of `MEASURES`; finite values only.
    """
    found = _scores(logged, train) | _tests(logged, ended, metrics) | _sparsities(logged, train)
    if train:
        found["epochs"] = ended.epochs
        if seconds := _points(logged, "seconds"):
            found["seconds_per_epoch"] = statistics.median(value for _, value in seconds)
    return {name: float(value) for name, value in found.items() if math.isfinite(value)}


def _points(logged: Logged, curve: str) -> Points:
    values = logged.curves.get(curve, ())
    return [(epoch, value) for epoch, value in zip(logged.epochs, values, strict=bool(values)) if value is not None]


def _scores(logged: Logged, train: bool) -> dict[str, float]:
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
        if reached:  # nothing is, beside a value that is no number
            found["epochs_to_99"] = reached[0] + 1
    return found


def _tests(logged: Logged, ended: Ended, metrics: Mapping[str, str]) -> dict[str, float]:
    last, best = ended.tests.get("last", {}), ended.tests.get("best")
    if best is None and _last_is_best(logged):
        best = last  # the same weights, and not scored twice
    found = {
        "final_test_acc": last.get(metrics.get("test_acc", "")),
        "final_test_loss": last.get(metrics.get("test_loss", "")),
        "test_acc_at_best": (best or {}).get(metrics.get("test_acc", "")),
    }
    return {name: value for name, value in found.items() if value is not None}


def _last_is_best(logged: Logged) -> bool:
    points = _points(logged, "val_acc")
    return bool(points) and max(points, key=lambda point: point[1])[0] == logged.epochs[-1]


def _sparsities(logged: Logged, train: bool) -> dict[str, float]:
    found = {name: points[-1][1] for name in ("untouched", "untouched_pruned") if (points := _points(logged, name))}
    points = _points(logged, "sparsity")
    if not points:
        return found
    pruned = _points(logged, "ever_pruned")
    # what was pruned before the first step has been counted when the first epoch ends, even if it was set free;
    # a run that prunes nothing can have zeros of its parent's, and its first epoch is the nearest look at them
    found["sparsity_start"] = pruned[0][1] if pruned and pruned[0][1] > 0 else points[0][1]
    found["sparsity_end"] = points[-1][1]
    if train:
        values = [value for _, value in points]
        found["sparsity_range"] = max(values) - min(values)
        late = [value for epoch, value in points if epoch + 1 >= 2 * (logged.epochs[-1] + 1) / 3]
        found["sparsity_late_fall"] = late[0] - late[-1]
    return found
