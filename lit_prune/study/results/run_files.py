"""The files that a run leaves behind, read without trust."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["CURVES", "Ended", "Logged", "UnreadableError", "is_broken", "read_ended", "read_error", "read_logged"]

# what the report calls a curve -> the column of metrics.csv; losses and accuracies are named by the plan
CURVES = {
    "sparsity": "sparsity/global",
    "ever_pruned": "sparsity/ever_pruned",
    "untouched": "gradient/untouched",
    "untouched_pruned": "gradient/untouched_pruned",
    "seconds": "time/epoch",
}
_ROLES = ("train_loss", "train_acc", "val_loss", "val_acc")
_LAYER = "sparsity/layer/"


class UnreadableError(Exception):
    """A file of a run is not what it should be; the message is one sentence that names the file."""


@dataclass(frozen=True)
class Logged:
    """What `metrics.csv` says.

    Attributes:
        epochs: Those that have rows, ascending.
        curves: By role or name in `CURVES`, one value an epoch, None where there is none; only columns that are there.
        layers: The sparsity of each layer, likewise.
        absent: The columns of losses and accuracies that the plan names and the file lacks.
    """

    epochs: tuple[int, ...]
    curves: Mapping[str, tuple[float | None, ...]]
    layers: Mapping[str, tuple[float | None, ...]]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class Ended:
    """What `result.json` says.

    Attributes:
        epochs: How many were trained.
        tests: Test metrics by their logged names, of the "last" and perhaps of the "best" epoch.
        initial_weights: What the run started from.
        environment: Versions and device.
    """

    epochs: int
    tests: Mapping[str, Mapping[str, float]]
    initial_weights: str | None
    environment: Mapping[str, Any]


def read_logged(path: Path, metrics: Mapping[str, str], train: bool) -> Logged:
    """Read a `metrics.csv`, whose rows of one epoch belong together.

    Args:
        path: The file.
        metrics: Role to the name of its column.
        train: Whether the run trained, so that training metrics are to be expected.

    Raises:
        UnreadableError: If the file is not there, is not a table of numbers, or lacks the columns without which it
            says nothing.
    """
    header, rows = _table(path)
    if "epoch" not in header:
        raise UnreadableError(f"{path.name} has no column `epoch`")
    columns = {role: metrics[role] for role in _ROLES if role in metrics}
    wanted = {role: name for role, name in columns.items() if train or role.startswith("val_")}
    absent = tuple(name for name in wanted.values() if name not in header)
    if wanted and len(absent) == len(wanted):
        raise UnreadableError(f"{path.name} has none of the columns {', '.join(f'`{name}`' for name in absent)}")
    columns = {key: name for key, name in (columns | CURVES).items() if name in header}
    layers = {name.removeprefix(_LAYER): name for name in header if name.startswith(_LAYER)}
    by_epoch = _by_epoch(path, rows, {*columns.values(), *layers.values()})
    epochs = tuple(sorted(by_epoch))

    def curve(name: str) -> tuple[float | None, ...]:
        return tuple(by_epoch[epoch].get(name) for epoch in epochs)

    return Logged(
        epochs,
        {key: curve(name) for key, name in columns.items()},
        {layer: curve(name) for layer, name in layers.items()},
        absent,
    )


def _table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise UnreadableError(f"{path.name} is missing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(f"{path.name} cannot be read ({_short(error)})") from error
    if not lines:
        raise UnreadableError(f"{path.name} is empty")
    header, *rows = lines
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise UnreadableError(f"{path.name} has {len(row)} cells in line {number} and {len(header)} in its first")
    return header, [dict(zip(header, row, strict=True)) for row in rows if row]


def _by_epoch(path: Path, rows: list[dict[str, str]], columns: set[str]) -> dict[int, dict[str, float]]:
    merged: dict[int, dict[str, float]] = {}
    for row in rows:
        cells = {name: row[name] for name in columns if row[name] != ""}
        if not cells:
            continue  # learning rates, test scores, what others log
        for name, text in [("epoch", row["epoch"]), *cells.items()]:
            try:
                float(text)
            except ValueError:
                raise UnreadableError(f"{path.name} has `{text[:40]}` in the column `{name}`") from None
        epoch = float(row["epoch"])
        if not epoch.is_integer():
            raise UnreadableError(f"{path.name} has `{row['epoch']}` in the column `epoch`")
        merged.setdefault(int(epoch), {}).update({name: float(text) for name, text in cells.items()})
    return merged


def read_ended(path: Path, experiment: str, seed: int) -> Ended:
    """Read a `result.json`.

    Args:
        path: The file.
        experiment: Whose it should be.
        seed: Likewise.

    Raises:
        UnreadableError: If it is cut off, or somebody else's.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path.name} cannot be read ({_short(error)})") from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise UnreadableError(f"{path.name} was not written by a study")
    if (found := (content.get("experiment"), content.get("seed"))) != (experiment, seed):
        raise UnreadableError(f"{path.name} is that of `{found[0]}` with seed {found[1]}")
    epochs, tests = content.get("epochs"), content.get("test") or {}
    weights, environment = content.get("initial_weights"), content.get("environment") or {}
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise UnreadableError(f"{path.name} has {str(epochs)[:40]!r} for `epochs`")
    if not isinstance(tests, dict) or not all(_are_numbers(scores) for scores in tests.values()):
        raise UnreadableError(f"{path.name} has something else than numbers for `test`")
    if not isinstance(weights, str | None) or not isinstance(environment, dict):
        raise UnreadableError(f"{path.name} has something else than names for `initial_weights` or `environment`")
    return Ended(epochs, tests, weights, environment)


def read_error(path: Path) -> str:
    """Read the sentence in an `error.txt`."""
    try:
        text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        return text.rstrip(".") or "it failed without a word"
    except OSError as error:
        return f"{path.name} cannot be read ({_short(error)})"


def is_broken(value: float | None) -> bool:
    """Tell whether a value was logged, and is no number or infinite."""
    return value is not None and not math.isfinite(value)


def _are_numbers(scores: Any) -> bool:
    return isinstance(scores, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in scores.values()
    )


def _short(error: Exception) -> str:
    return " ".join(str(getattr(error, "strerror", None) or error).split())[:80].rstrip(".")
