"""The first paragraphs of a report: a summary of the study, and a list of the runs that are not complete."""

from pathlib import Path
from typing import Any

from lit_prune.cli.tables import pluralize
from lit_prune.study.plan.plan import Plan
from lit_prune.study.results.results import Results, Run, format_seeds

# defaults of CIFAR10DataModule, repeated because importing it would import torch
_VAL_SIZE, _BATCH_SIZE, _CIFAR10_TRAIN = 5000, 128, 50_000
_VERSIONS = {"lit_prune": "lit-prune", "lightning": "Lightning", "torch": "torch", "python": "Python"}


def overview(results: Results, started: Results) -> str:
    """Return a paragraph about experiments, initial weights, data, epochs, optimizer, machine, and complete runs.

    Args:
        results: Results of the study.
        started: Results of the started experiments, from `Results.started`.
    """
    plan = results.plan
    seeds = len(plan.seeds)
    complete = sum(run.status == "complete" for run in results.runs)
    parts = [
        f"The study `{plan.name}` has {pluralize(len(plan.experiments), 'experiment')}, "
        f"each with {pluralize(seeds, 'seed')} ({', '.join(map(str, sorted(plan.seeds)))}).",
        _weights(results),
        _data(plan),
        _epochs(results),
        _optimizer(plan),
        _machine(results),
        describe_runs(started) + ("; all numbers are from complete runs." if 0 < complete < len(started.runs) else "."),
        describe_not_started(results, started),
    ]
    return " ".join(part for part in parts if part)


def describe_runs(started: Results) -> str:
    """Return how many runs of the started experiments are complete, such as "3 of 6 runs are complete"."""
    complete = sum(run.status == "complete" for run in started.runs)
    return f"{complete} of {pluralize(len(started.runs), 'run')} {'is' if complete == 1 else 'are'} complete"


def describe_not_started(results: Results, started: Results) -> str:
    """Return a sentence about the experiments that have not been started; "" if all have."""
    left = len(results.plan.experiments) - len(started.plan.experiments)
    have = "has" if left == 1 else "have"
    return f"{pluralize(left, 'other experiment')} of the plan {have} not been started." if left else ""


def list_incomplete_runs(results: Results) -> str:
    """Return a Markdown list, by reason, of the runs that are not complete or lack metrics; "" if there are none."""
    found: dict[str, dict[str, list[int]]] = {}
    for run in results.runs:
        if run.status != "complete" or run.note:
            found.setdefault(_reason(run), {}).setdefault(run.experiment, []).append(run.seed)
    lines = [
        f"- {reason}: {'; '.join(f'{name} ({format_seeds(seeds)})' for name, seeds in experiments.items())}"
        for reason, experiments in found.items()
    ]
    return "\n".join(lines)


def _reason(run: Run) -> str:
    if run.status in ("missing", "unfinished"):
        return run.note.capitalize()
    return f"{run.status.capitalize()} ({'but ' if run.status == 'complete' else ''}{run.note})"


def _weights(results: Results) -> str:
    roots = {experiment.name for experiment in results.plan.experiments if experiment.parent is None}
    finished = [run for run in results.runs if run.experiment in roots and run.status in ("complete", "diverged")]
    names = dict.fromkeys(run.initial_weights for run in finished) or [results.plan.initial_weights]
    return f"The initial weights are {' or '.join(map(_describe_weights, names))}."


def _describe_weights(name: str | None) -> str:
    if name is None:
        return "those that the model class creates"
    if name == "random":
        return "random (nothing is pre-trained)"
    if name == "IMAGENET1K_V1":
        return "ImageNet's pre-trained weights (IMAGENET1K_V1)"
    return f"the weights in the file `{Path(name).name}`"  # without the folder, which may not exist on other machines


def _data(plan: Plan) -> str:
    data = plan.settings.get("data") or {}
    others = [experiment.name for experiment in plan.experiments if "data" in experiment.overrides]
    but = f" (other data settings in {', '.join(others)})" if others else ""
    if isinstance(data, str) or "class_path" in data:
        name = data if isinstance(data, str) else data["class_path"]
        return f"The data come from `{str(name).rsplit('.', 1)[-1]}`{but}."
    source, val = str(data.get("source", "cifar10")), data.get("val_size", _VAL_SIZE)
    limit = data.get("limit_train")
    name = {"cifar10": "CIFAR-10", "synthetic": "synthetic images"}.get(source, source)
    left = _CIFAR10_TRAIN - val if source == "cifar10" and isinstance(val, int) else None
    train = _number(limit or left or "all") + (f" of {_number(left)}" if limit and left else "")
    batch = _number(data.get("batch_size", _BATCH_SIZE))
    augment = f", augmentation: {data['augment']}" if data.get("augment") else ""
    images = f"{train} training images, {_number(val)} for validation"
    return f"The data are {name}: {images}, batches of {batch}{augment}{but}."


def _epochs(results: Results) -> str:
    counts = {int(run.measures["epochs"]) for run in results.runs if "epochs" in run.measures}
    if not counts:
        return ""
    low, high = min(counts), max(counts)
    return f"Each training took {pluralize(low, 'epoch') if low == high else f'{low} to {high} epochs'}."


def _optimizer(plan: Plan) -> str:
    """Return what the plan says about optimizer and learning rate schedule; "" if it leaves them to the model class."""
    model = _arguments(plan.settings.get("model"))
    sentences = []
    for key, title in (("optimizer", "Optimizer"), ("lr_scheduler", "Learning rate schedule")):
        if model.get(key):
            others = [one.name for one in plan.experiments if key in _arguments(one.overrides.get("model"))]
            but = f" (another in {', '.join(others)})" if others else ""
            sentences.append(f"{title}: {_describe_object(model[key])}{but}.")
    return " ".join(sentences)


def _arguments(settings: Any) -> dict[str, Any]:
    """Return the arguments that settings give to a class."""
    found: dict[str, Any] = settings if isinstance(settings, dict) else {}
    return found | (found.get("init_args") or {})


def _describe_object(settings: Any) -> str:
    settings = settings if isinstance(settings, dict) else {"class_path": settings}
    arguments = ", ".join(f"{key}={value}" for key, value in (settings.get("init_args") or {}).items())
    return f"`{str(settings.get('class_path')).rsplit('.', 1)[-1]}({arguments})`"


def _machine(results: Results) -> str:
    found = {
        key: " and ".join(dict.fromkeys(str(run.environment[key]) for run in results.runs if key in run.environment))
        for key in ("device", "threads", *_VERSIONS)
    }
    threads = f" (threads per run: {found['threads']})" if found["threads"] else ""
    device = f"Device: {found['device']}{threads}." if found["device"] else ""
    versions = ", ".join(f"{name} {found[key]}" for key, name in _VERSIONS.items() if found[key])
    return " ".join(filter(None, (device, f"Versions: {versions}." if versions else "")))


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
