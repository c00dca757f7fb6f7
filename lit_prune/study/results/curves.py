"""Curves of one run, and their means over seeds."""

import math
from dataclasses import dataclass

from lit_prune.study.results.results import Results, Run

__all__ = ["Curve", "mean_curve", "run_curve"]


@dataclass(frozen=True)
class Curve:
    """Finite values over epochs.

    Attributes:
        epochs: Epochs, ascending, counted from 0.
        values: One value per epoch.
    """

    epochs: tuple[int, ...]
    values: tuple[float, ...]


def run_curve(run: Run, name: str) -> Curve | None:
    """Return the finite values of a curve of one run; None if it has none."""
    values = run.curves.get(name, ())
    points = [(e, value) for e, value in zip(run.epochs, values, strict=bool(values)) if math.isfinite(value)]
    if not points:
        return None
    epochs, finite = zip(*points, strict=True)
    return Curve(epochs, finite)


def mean_curve(results: Results, experiment: str, name: str) -> Curve | None:
    """Average a curve over the complete runs of an experiment.

    Args:
        results: The study.
        experiment: Name of the experiment.
        name: Name of the curve in `Run.curves`.

    Returns:
        The mean over the epochs that all seeds have: after a seed stopped early, the mean over the others would not
        be comparable. None if a seed diverged or no run has the curve.
    """
    if results.with_status(experiment, "diverged"):
        return None
    curves = [curve for run in results.with_status(experiment, "complete") if (curve := run_curve(run, name))]
    by_epoch = [dict(zip(curve.epochs, curve.values, strict=True)) for curve in curves]
    common = sorted(set.intersection(*map(set, by_epoch))) if by_epoch else []
    if not common:
        return None
    means = tuple(math.fsum(values[epoch] for values in by_epoch) / len(by_epoch) for epoch in common)
    return Curve(tuple(common), means)
