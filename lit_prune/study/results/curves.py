"""Curves of one run, and their means over seeds."""

import math

from lit_prune.study.results.results import Results, Run

# epoch, counted from 0 and ascending, -> finite value
Curve = dict[int, float]


def run_curve(run: Run, name: str) -> Curve:
    """Return the finite values of a curve of one run; empty if it has none."""
    values = run.curves.get(name, ())
    return {epoch: v for epoch, v in zip(run.epochs, values, strict=bool(values)) if math.isfinite(v)}


def mean_curve(results: Results, experiment: str, name: str) -> Curve:
    """Average a curve over the complete runs of an experiment.

    Args:
        results: The study.
        experiment: Name of the experiment.
        name: Name of the curve in `Run.curves`.

    Returns:
        The mean over the epochs that all seeds have: after a seed stopped early, the mean over the others would not
        be comparable. Empty if a seed diverged or no run has the curve.
    """
    if results.with_status(experiment, "diverged"):
        return {}
    curves = [curve for run in results.with_status(experiment, "complete") if (curve := run_curve(run, name))]
    common = sorted(set.intersection(*map(set, curves))) if curves else []
    return {epoch: math.fsum(curve[epoch] for curve in curves) / len(curves) for epoch in common}
