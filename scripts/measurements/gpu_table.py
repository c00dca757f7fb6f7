"""Turn the results of `scripts/gpu.py` into the tables of docs/benchmarks.md."""

import statistics
from collections.abc import Mapping
from typing import Any

from measurements.document import table

Results = Mapping[str, Any]
TARGETS = (0.94, 0.95, 0.96)


def describe(results: Results) -> str:
    """Return Markdown with a table for each part that was measured, and the error of each part that failed."""
    machine = results.get("machine", {})
    card = machine.get("card")
    where = f"one {card} ({machine['memory_gb']} GB), CUDA {machine['cuda']}" if card else "no GPU: a rehearsal"
    head = (
        f"Measured on {where}, with {machine.get('cores')} cores, Python {machine.get('python')}, torch "
        f"{machine.get('torch')}, {IMAGES.get(machine.get('source'), 'unknown')} images. Times are medians, with the "
        "lowest and the highest in parentheses."
    )
    parts = [head]
    for name, (title, tell) in PARTS.items():
        if (content := results.get(name)) is not None:
            error = content.get("error")
            parts.append(f"**{title}**\n\n{tell(content) if error is None else f'Not measured: {error}'}")
    return "\n\n".join(parts)


IMAGES = {"cifar10": "CIFAR-10", "synthetic": "synthetic"}


def _tests(content: Results) -> str:
    counts = ", ".join(f"{number} {kind}" for kind, number in content["counts"].items())
    return "\n".join([counts or "no test ran", *(f"- `{line}`" for line in content["failures"])])


def _steps(content: Results) -> str:
    rows = [
        [name, _milliseconds(values), _ratio(content["ratios"].get(f"original loop / {name}"))]
        for name, values in content["seconds_per_step"].items()
    ]
    return table(["128 images in GPU memory", "ms a step", "times as fast"], rows)


def _epochs(content: Results) -> str:
    rows = []
    for name, one in content["epochs"].items():
        fast = f"{one['original loop / ours']:.1f}" if "original loop / ours" in one else ""
        first = f"{one['first']:.1f}" if "first" in one else ""
        rows.append([name, f"{statistics.median(one['seconds']):.2f}", first, fast])
    return table(["45,000 images", "s an epoch", "s, first epoch", "times as fast"], rows)


def _accuracy(content: Results) -> str:
    rows = [
        [str(run["epochs"]), f"{run['epoch']['median']:.2f}", f"{run['seconds']:.1f}", f"{run['test_accuracy']:.2%}"]
        for run in content["runs"]
    ]
    shown = table(["Epochs", "s an epoch", "s in all", "Test accuracy"], rows)
    reached = []
    for target in TARGETS:
        fast = min((run["seconds"] for run in content["runs"] if run["test_accuracy"] >= target), default=None)
        reached.append(f"{target:.0%}: " + ("not reached" if fast is None else f"{fast:.1f} s"))
    warm = f"Not included: {content['warm_up_seconds']:.0f} s of compiling, in three steps before the first run."
    return f"{shown}\n\nTime to {'; '.join(reached)}. {warm}"


def _masks(content: Results) -> str:
    rows = [
        [f"{size}: {name}", _ratio(values, 3)]
        for size, results in content.items()
        for name, values in results["ratios"].items()
    ]
    return table(["30% of the weights masked", "time"], rows)


def _ratios(content: Results) -> str:
    return table(["", "ratio"], [[name, _ratio(values, 3)] for name, values in content["ratios"].items()])


def _layers(content: Results) -> str:
    rows = []
    for name, one in content.items():
        rows.append([name, one["error"] if "error" in one else _ratio(one["ratios"]["dense / 2:4"])])
    return table(["bfloat16, 2 of 4 weights zero", "dense / 2:4"], rows)


def _jobs(content: Results) -> str:
    rows = [[count, f"{one['epoch_seconds']:.2f}", f"{one['epochs_per_minute']:.1f}"] for count, one in content.items()]
    return table(["Runs at once", "s an epoch", "epochs a minute"], rows)


# in the order in which they are measured: the title of the table, and the function that makes it
PARTS = {
    "step": ("A training step", _steps),
    "epoch": ("An epoch of `--config original`", _epochs),
    "accuracy": ("Time to an accuracy, with the CIFAR stem", _accuracy),
    "masks": ("Masks", _masks),
    "threshold": ("Finding the smallest 30% of 11.2 million weights", _ratios),
    "monitor": ("`SparsityMonitor`", _ratios),
    "semi_structured": ("2:4 sparsity", _layers),
    "tests": ("Tests marked `gpu`", _tests),
    "jobs": ("Several runs on one GPU", _jobs),
}


def _milliseconds(values: Results) -> str:
    return " ".join([f"{1000 * values['median']:.2f}", f"({1000 * values['low']:.2f} to {1000 * values['high']:.2f})"])


def _ratio(values: Results | None, digits: int = 2) -> str:
    if values is None:
        return ""
    return f"{values['median']:.{digits}f} ({values['low']:.{digits}f} to {values['high']:.{digits}f})"
