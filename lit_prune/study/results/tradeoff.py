"""Group pruned experiments into series, and find the dense (unpruned) experiment to compare each of them with."""

import re
from dataclasses import dataclass
from typing import Any
from zlib import crc32

from lit_prune.files.nested import merge
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.results.results import Results
from lit_prune.study.statistics import Estimate, estimate

_MEASURES = ("final_test_acc", "final_val_acc")
_AT_BEST = {"final_test_acc": "test_acc_at_best", "final_val_acc": "best_val_acc"}
# a network counts as pruned if at least this fraction of its weights is zero; far fewer weights are zero by chance
_DENSE = 1e-3
_REMOVAL = "PruningRemoval"
_LENGTH = ("max_epochs", "max_steps", "max_time", "limit_train_batches")  # settings that limit the training
# arguments of pruning callbacks that define the method; in labels, the second ones follow their names
_PARTS = ("criterion", "structure", "allocation", "schedule")
_NAMED = ("rewind_to", "layers", "exclude", "parameters")
_SHORT = {
    "GlobalL1Pruning": ("l1", "L1 pruning"),
    "GlobalRandomPruning": ("random", "random pruning"),
    "LocalL1Pruning": ("local-l1", "L1 pruning by layer"),
}


@dataclass(frozen=True)
class Point:
    """One experiment in a series.

    Attributes:
        experiment: Name of the experiment.
        sparsity: Final sparsity in [0, 1], mean over seeds.
        accuracy: Final accuracy in [0, 1], estimated over seeds.
        dense: Name of the dense experiment to compare with; None if there is none.
        difference: `accuracy` minus the accuracy of `dense`, paired by seed; None if no seed has both.
    """

    experiment: str
    sparsity: float
    accuracy: Estimate
    dense: str | None
    difference: Estimate | None


@dataclass(frozen=True)
class Series:
    """Experiments with the same pruning method and training, at different sparsities.

    Attributes:
        slug: Name in TensorBoard tags, for example "l1".
        label: Name in figures, for example "L1 pruning, fine-tuned".
        points: One or more experiments, by ascending sparsity.
    """

    slug: str
    label: str
    points: tuple[Point, ...]


def tradeoff(results: Results) -> tuple[Series, ...]:
    """Group the experiments that keep their pruning masks into series.

    All experiments of a series use the same pruning callbacks; either all or none train, and either all or none start
    from initial weights. Experiments with a diverged run or without a complete run are left out. Experiments that
    remove their masks are left out, too, because their final sparsity is lower than the sparsity after pruning.
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
        dense, others = find_baseline(results, experiment), baseline_values(results, experiment, measure)
        pairs = [value - others[seed] for seed, value in values.items() if seed in others]
        point = Point(experiment.name, sparsity.mean, accuracy, dense, estimate(pairs))
        series.setdefault(_name(results.plan, experiment), []).append(point)
    return tuple(
        Series(slug, label, tuple(sorted(points, key=lambda point: point.sparsity)))
        for (slug, label), points in series.items()
    )


def accuracy_measure(results: Results) -> str:
    """Return "final_test_acc" if any run has this measure; if none has, "final_val_acc"; if none has either, ""."""
    return next((name for name in _MEASURES if any(name in run.measures for run in results.runs)), "")


def find_baseline(results: Results, experiment: Experiment) -> str | None:
    """Return the name of the dense experiment to compare an experiment with.

    An experiment that trains is compared with one that starts from the same weights, trains as long, overrides no
    settings but those that limit the training, and prunes nothing; None if the plan has no such experiment. An
    experiment that does not train is compared with its parent; None if it has no parent.
    """
    if experiment.train:
        for other in results.plan.experiments:
            alike = (other.parent, other.checkpoint, other.train) == (experiment.parent, experiment.checkpoint, True)
            alike &= _length(results.plan, other) == _length(results.plan, experiment)
            alike &= other.name != experiment.name and _overrides_only_length(other)
            if alike and not prunes(results, other.name):
                return other.name
        return None
    return experiment.parent


def baseline_values(results: Results, experiment: Experiment, measure: str) -> dict[int, float]:
    """Return the accuracies, by seed, of the network that `find_baseline` names: `measure`, "final_test_acc" or such.

    For an experiment that does not train and starts from the best checkpoint of its parent, they are those at the best
    epoch.
    """
    baseline = find_baseline(results, experiment)
    if baseline is None:
        return {}
    at_best = not experiment.train and experiment.checkpoint == "best"
    return results.values(baseline, _AT_BEST[measure] if at_best else measure)


def _length(plan: Plan, experiment: Experiment) -> list[Any]:
    """Return the settings that limit the training of an experiment."""
    trainer = merge(plan.settings, experiment.overrides).get("trainer") or {}
    return [trainer.get(name) for name in _LENGTH]


def _overrides_only_length(experiment: Experiment) -> bool:
    others = {name: value for name, value in experiment.overrides.items() if name != "trainer"}
    return not others and set(experiment.overrides.get("trainer") or {}) <= set(_LENGTH)


def prunes(results: Results, experiment: str) -> bool:
    """Return whether an experiment pruned weights, or started from pruned weights."""
    curves = (run.finite_curve(name) for run in results.of(experiment) for name in ("sparsity", "ever_pruned"))
    return any(share >= _DENSE for curve in curves for share in curve.values())


def has_removal(plan: Plan, experiment: Experiment) -> bool:
    """Return whether an experiment uses `PruningRemoval`, which removes masks."""
    return _REMOVAL in (name for name, _ in _callbacks(merge(plan.settings, experiment.overrides)))


def _name(plan: Plan, experiment: Experiment) -> tuple[str, str]:
    """Return the slug and label of an experiment's series."""
    # A series is named after the callbacks that its experiments add to those of the study or, if they add none, after
    # the study's pruning callbacks.
    pruning = [callback for callback in _callbacks(plan.settings) if "prun" in callback[0].lower()]
    own = _callbacks(experiment.overrides) or pruning or [("none", {})]
    slug, label = (" + ".join(parts) for parts in zip(*(_method(*callback) for callback in own), strict=True))
    if not experiment.train:
        slug, label = f"{slug}-not-trained", f"{label}, not trained"
    if experiment.parent is None:
        return f"{slug}-from-initial", f"{label}, from initial weights"
    return slug, label + (", fine-tuned" if experiment.train else "")


def _method(name: str, arguments: dict[str, Any]) -> tuple[str, str]:
    """Return the slug and label of a callback: its class, with the arguments that define its method."""
    parts = [_describe(arguments[part]) for part in _PARTS if arguments.get(part)]
    parts += [f"{part} {arguments[part]}" for part in _NAMED if arguments.get(part) is not None]
    if "prun" in name.lower() and {"end_epoch", "end_step"} & arguments.keys():
        parts.append("gradual")
    slug, label = _SHORT.get(name, (name, name))
    return "-".join((slug, *map(_make_slug, parts))), f"{label} ({', '.join(parts)})" if parts else label


def _make_slug(part: str) -> str:
    """Return a text that can be a part of a folder's name, and differs for different texts."""
    short = re.sub(r"[^\w.:+-]+", "-", part).strip("-")[:40]
    return short if short == part else f"{short}-{crc32(part.encode()):08x}"


def _describe(part: Any) -> str:
    """Return a criterion, structure or allocation as text; of an object, its class and arguments but the seed."""
    if not isinstance(part, dict):
        return str(part)
    arguments = part
    if "class_path" in part:
        arguments = {name: value for name, value in (part.get("init_args") or {}).items() if name != "seed"}
    text = ", ".join(f"{name} {value}" for name, value in arguments.items())
    return " ".join(filter(None, (str(part.get("class_path", "")).rsplit(".", 1)[-1], text)))


def _callbacks(settings: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Return the class names of the callbacks, without their module paths, and their arguments."""
    trainer = settings.get("trainer") or {}
    found = []
    for key in ("callbacks", "callbacks+"):
        value = trainer.get(key)
        for item in value if isinstance(value, list) else [value]:
            options = item if isinstance(item, dict) else {"class_path": item}
            path, arguments = options.get("class_path"), options.get("init_args")
            if isinstance(path, str):
                found.append((path.rsplit(".", 1)[-1], arguments if isinstance(arguments, dict) else {}))
    return found
