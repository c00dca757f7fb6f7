"""Accuracy against sparsity: which experiments are compared, in which series, and with what."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.results.results import Results
from lit_prune.study.statistics import Estimate, estimate

__all__ = ["Point", "Series", "accuracy_measure", "compared", "has_removal", "prunes", "tradeoff"]

_MEASURES = ("final_test_acc", "final_val_acc")
# weights can be zero without having been pruned, but hardly one in a thousand
_DENSE = 1e-3
_REMOVAL = "PruningRemoval"
_SHORT = {
    "GlobalL1Pruning": ("l1", "L1 pruning"),
    "GlobalRandomPruning": ("random", "random pruning"),
    "LocalL1Pruning": ("local-l1", "L1 pruning by layer"),
}


@dataclass(frozen=True)
class Point:
    """One experiment in a series.

    Attributes:
        experiment: Its name.
        sparsity: At the end, a fraction, mean over seeds.
        accuracy: A fraction.
        dense: The experiment that it is compared with, if there is one.
        difference: `accuracy` less that of `dense`, paired by seed.
    """

    experiment: str
    sparsity: float
    accuracy: Estimate
    dense: str | None
    difference: Estimate | None


@dataclass(frozen=True)
class Series:
    """Experiments that differ in how much they prune.

    Attributes:
        slug: A name for tags, for example "l1".
        label: A name for people, for example "L1 pruning, fine-tuned".
        points: By ascending sparsity, at least one.
    """

    slug: str
    label: str
    points: tuple[Point, ...]


def tradeoff(results: Results) -> tuple[Series, ...]:
    """Put experiments that end with a mask in series by what prunes, whether they train, and from where.

    Args:
        results: A study.

    Returns:
        Those with complete runs none of which diverged. Experiments that take their mask off are left out: what is
        zero at their end was not chosen.
    """
    measure = accuracy_measure(results)
    series: dict[tuple[str, str], list[Point]] = {}
    for experiment in results.plan.experiments if measure else ():
        if not prunes(results, experiment.name) or has_removal(results.plan, experiment):
            continue
        sparsity = estimate(results.values(experiment.name, "sparsity_end").values())
        values = results.values(experiment.name, measure)
        accuracy = estimate(values.values())
        if sparsity is None or accuracy is None:
            continue
        dense = compared(results, experiment)
        others = results.values(dense, measure) if dense is not None else {}
        pairs = [value - others[seed] for seed, value in values.items() if seed in others]
        point = Point(experiment.name, sparsity.mean, accuracy, dense, estimate(pairs))
        series.setdefault(_name(results.plan, experiment), []).append(point)
    return tuple(
        Series(slug, label, tuple(sorted(points, key=lambda point: point.sparsity)))
        for (slug, label), points in series.items()
    )


def accuracy_measure(results: Results) -> str:
    """Name the measure of accuracy that a study has: of the test set, or else of the validation set; "" for none."""
    return next((name for name in _MEASURES if any(name in run.measures for run in results.runs)), "")


def compared(results: Results, experiment: Experiment) -> str | None:
    """Name the dense experiment to compare with.

    Args:
        results: A study.
        experiment: One of its experiments.

    Returns:
        For one that trains, another that trains from the same weights with the study's own settings and is dense at
        its end. Where there is none, and for one that does not train, the parent, which may be None.
    """
    if experiment.train:
        for other in results.plan.experiments:
            alike = (other.parent, other.checkpoint, other.train) == (experiment.parent, experiment.checkpoint, True)
            if alike and other.name != experiment.name and not other.overrides and not prunes(results, other.name):
                return other.name
    return experiment.parent


def prunes(results: Results, experiment: str) -> bool:
    """Tell whether weights of an experiment were pruned at any time, or are zero in number."""
    shares = [
        value
        for run in results.of(experiment)
        for name in ("sparsity", "ever_pruned")
        for value in run.curves.get(name, ())
    ]
    return any(math.isfinite(share) and share >= _DENSE for share in shares)


def has_removal(plan: Plan, experiment: Experiment) -> bool:
    """Tell whether an experiment takes its mask off."""
    return _REMOVAL in _callbacks(merge(plan.settings, experiment.overrides))


def _name(plan: Plan, experiment: Experiment) -> tuple[str, str]:
    """Slug and label."""
    # what all experiments share does not tell them apart, unless it is all there is
    own = _callbacks(experiment.overrides) or [n for n in _callbacks(plan.settings) if "prun" in n.lower()] or ["none"]
    slug, label = (" + ".join(argv) for argv in zip(*(_SHORT.get(name, (name, name)) for name in own), strict=True))
    if not experiment.train:
        slug, label = f"{slug}-not-trained", f"{label}, not trained"
    if experiment.parent is None:
        return f"{slug}-from-initial", f"{label}, from initial weights"
    return slug, label + (", fine-tuned" if experiment.train else "")


def _callbacks(settings: dict[str, object]) -> list[str]:
    """Class names of callbacks, without their modules."""
    trainer = settings.get("trainer")
    if not isinstance(trainer, dict):
        return []
    items = [item for key in ("callbacks", "callbacks+") for item in _listed(trainer.get(key))]
    paths = [item.get("class_path") if isinstance(item, dict) else item for item in items]
    return [path.rsplit(".", 1)[-1] for path in paths if isinstance(path, str)]


def _listed(value: object) -> Iterable[object]:
    return value if isinstance(value, list) else [] if value is None else [value]
