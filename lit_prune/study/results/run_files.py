"""Read `metrics.csv`, `result.json` and `error.txt` in the folder of a run."""

import csv
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lit_prune.errors import shorten

# name of a curve -> its column in metrics.csv; for the curves in `ROLES`, the plan's `metrics` name the columns
_CURVES = {
    "sparsity": "sparsity/global",
    "masked": "sparsity/masked",
    "ever_pruned": "sparsity/ever_pruned",
    "untouched": "gradient/untouched",
    "untouched_pruned": "gradient/untouched_pruned",
    "seconds": "time/epoch",
}
ROLES = ("train_loss", "train_acc", "val_loss", "val_acc")
_LAYER = "sparsity/layer/"

Curve = Mapping[int, float]  # epoch -> value; epochs count from 0 and ascend


class UnreadableError(Exception):
    """A file of a run is missing or damaged; the message is a phrase that names the file."""


@dataclass(frozen=True)
class Logged:
    """Content of `metrics.csv`.

    Attributes:
        epochs: Epochs with values, ascending, counted from 0.
        curves: Curves by name: those in `ROLES` and `_CURVES` whose column exists. Epochs without a value are left out.
        layers: The sparsity curve of each layer, by name of the layer.
        absent: Columns that are missing, although the plan's `metrics` name them.
    """

    epochs: tuple[int, ...]
    curves: Mapping[str, Curve]
    layers: Mapping[str, Curve]
    absent: tuple[str, ...]


@dataclass(frozen=True)
class RunResult:
    """Content of `result.json`.

    Attributes:
        epochs: Number of trained epochs.
        tests: Test metrics by logged name, for the "last" checkpoint and, if it was tested too, for the "best".
        initial_weights: See `Run`.
        environment: Versions of packages, device and number of threads.
        seconds: See `Run`.
    """

    epochs: int
    tests: Mapping[str, Mapping[str, float]]
    initial_weights: str | None = None
    environment: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = math.nan


def read_logged(path: Path, metrics: Mapping[str, str], train: bool) -> Logged:
    """Read `metrics.csv` and merge the rows of each epoch. Without `train`, training metrics may be missing.

    Raises:
        UnreadableError: If the file is missing, is not a table of numbers, or has none of the expected columns.
    """
    header, rows = _read_table(path)
    if "epoch" not in header:
        raise UnreadableError(f"{path.name} has no column `epoch`")
    columns = {role: metrics[role] for role in ROLES if role in metrics}
    wanted = {role: name for role, name in columns.items() if train or role.startswith("val_")}
    absent = tuple(name for name in wanted.values() if name not in header)
    if wanted and len(absent) == len(wanted):
        raise UnreadableError(f"{path.name} has none of the columns {', '.join(f'`{name}`' for name in absent)}")
    columns = {key: name for key, name in (columns | _CURVES).items() if name in header}
    layers = {name.removeprefix(_LAYER): name for name in header if name.startswith(_LAYER)}
    by_epoch = dict(sorted(_merge_epochs(path, rows, {*columns.values(), *layers.values()}).items()))
    curves, sparsities = (
        {key: {epoch: cells[name] for epoch, cells in by_epoch.items() if name in cells} for key, name in names.items()}
        for names in (columns, layers)
    )
    return Logged(tuple(by_epoch), curves, sparsities, absent)


def _read_table(path: Path) -> tuple[list[str], list[dict[str, str]]]:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file, strict=True))
    except FileNotFoundError:
        raise UnreadableError(f"{path.name} is missing") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UnreadableError(f"{path.name} cannot be read ({_describe(error)})") from error
    if not lines:
        raise UnreadableError(f"{path.name} is empty")
    header, *rows = lines
    for number, row in enumerate(rows, start=2):
        if row and len(row) != len(header):
            raise UnreadableError(f"{path.name} has {len(row)} cells in line {number} and {len(header)} in line 1")
    return header, [dict(zip(header, row, strict=True)) for row in rows if row]


def _merge_epochs(path: Path, rows: list[dict[str, str]], columns: set[str]) -> dict[int, dict[str, float]]:
    merged: dict[int, dict[str, float]] = {}
    for row in rows:
        cells = {name: row[name] for name in columns if row[name] != ""}
        if not cells:
            continue  # a row with only learning rates, test metrics, or metrics of other callbacks
        for name, text in [("epoch", row["epoch"]), *cells.items()]:
            try:
                float(text)
            except ValueError:
                raise UnreadableError(
                    f"{path.name} has `{shorten(text, 40)}`, not a number, in the column `{name}`"
                ) from None
        epoch = float(row["epoch"])
        if not epoch.is_integer():
            raise UnreadableError(f"{path.name} has `{row['epoch']}`, not an integer, in the column `epoch`")
        merged.setdefault(int(epoch), {}).update({name: float(text) for name, text in cells.items()})
    return merged


def read_result(path: Path, experiment: str, seed: int) -> RunResult:
    """Read `result.json`, and check that it is the result of this experiment and seed.

    Raises:
        UnreadableError: If the file is damaged or belongs to another run.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UnreadableError(f"{path.name} cannot be read ({_describe(error)})") from error
    if not isinstance(content, dict) or content.get("format") != 1:
        raise UnreadableError(f"{path.name} was not written by a study")
    if (found := (content.get("experiment"), content.get("seed"))) != (experiment, seed):
        raise UnreadableError(f"{path.name} belongs to `{found[0]}` with seed {found[1]}")
    epochs, tests = content.get("epochs"), content.get("test") or {}
    weights, environment = content.get("initial_weights"), content.get("environment") or {}
    if not isinstance(epochs, int) or isinstance(epochs, bool) or epochs < 0:
        raise UnreadableError(f"{path.name} has {shorten(str(epochs), 40)!r} for `epochs`")
    if not isinstance(tests, dict) or not all(_are_numbers(metrics) for metrics in tests.values()):
        raise UnreadableError(f"{path.name} has values that are not numbers in `test`")
    if not isinstance(weights, str | None) or not isinstance(environment, dict):
        raise UnreadableError(f"{path.name} has a wrong type for `initial_weights` or `environment`")
    seconds = content.get("seconds")
    return RunResult(epochs, tests, weights, environment, seconds if isinstance(seconds, int | float) else math.nan)


def read_error(path: Path) -> str:
    """Return the sentence in `error.txt` without its full stop."""
    try:
        text = " ".join(path.read_text(encoding="utf-8", errors="replace").split())
        return text.rstrip(".") or f"{path.name} is empty"
    except OSError as error:
        return f"{path.name} cannot be read ({_describe(error)})"


def _are_numbers(metrics: Any) -> bool:
    return isinstance(metrics, dict) and all(
        isinstance(value, int | float) and not isinstance(value, bool) for value in metrics.values()
    )


def _describe(error: Exception) -> str:
    return shorten(" ".join(str(getattr(error, "strerror", None) or error).split())).rstrip(".")
