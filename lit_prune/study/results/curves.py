"""Curves averaged over seeds."""

import math
from dataclasses import dataclass

from lit_prune.study.results.results import Results, Run

__all__ = ["Curve", "diverged_label", "mean_curve", "run_curve"]


@dataclass(frozen=True)
class Curve:
    """Values over epochs.

    Attributes:
        epochs: Ascending, counted from 0 as they are logged.
        values: One finite number for each.
    """

    epochs: tuple[int, ...]
    values: tuple[float, ...]


def run_curve(run: Run, name: str) -> Curve | None:
    """What one run logged under a name, where it is a finite number; None if it is nowhere."""
    points = [
        (epoch, value)
        for epoch, value in zip(run.epochs, run.curves.get(name, ()), strict=name in run.curves)
        if math.isfinite(value)
    ]
    if not points:
        return None
    epochs, values = zip(*points, strict=True)
    return Curve(epochs, values)


def mean_curve(results: Results, experiment: str, name: str) -> Curve | None:
    """Average a curve over the complete runs of an experiment.

    Args:
        results: A study.
        experiment: One of its experiments.
        name: A name in `Run.curves`.

    Returns:
        The mean in the epochs that all seeds have: where one stopped early, a mean of the others would be another
        thing. None if a seed diverged, or if there is nothing to average.
    """
    if results.with_status(experiment, "diverged"):
        return None
    curves = [curve for run in results.with_status(experiment, "complete") if (curve := run_curve(run, name))]
    if not curves:
        return None
    by_epoch = [dict(zip(curve.epochs, curve.values, strict=True)) for curve in curves]
    common = sorted(set.intersection(*(set(values) for values in by_epoch)))
    if not common:
        return None
    means = tuple(math.fsum(values[epoch] for values in by_epoch) / len(by_epoch) for epoch in common)
    return Curve(tuple(common), means)


def diverged_label(results: Results, experiment: str) -> str:
    """Say which seeds diverged: "diverged (seed 1)", or "" if none did."""
    seeds = [str(run.seed) for run in results.with_status(experiment, "diverged")]
    return f"diverged (seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)})" if seeds else ""
