"""An inspection as a table, as JSON and as CSV."""

import csv
import io
import json
from typing import Any

from lit_prune.cli.tables import table
from lit_prune.trained.layers import Inspection, Layer, shown

__all__ = ["as_csv", "as_json", "as_table"]

_UNKNOWN = "?"
_COLUMNS = (
    "layer",
    "shape",
    "weights",
    "zeros",
    "sparsity",
    "masked",
    "frozen",
    "smallest",
    "largest",
    "infinite",
    "untouched",
    "flops",
    "flops_nonzero",
)


def as_table(found: Inspection) -> str:
    """Make a table for a terminal, with a line about all layers and with notes below it.

    Columns of which the file says nothing are left out.
    """
    total = found.total
    cells = {
        "layer": [shown(layer.name) for layer in found.layers] + ["all"],
        "shape": ["x".join(map(str, layer.shape)) for layer in found.layers] + [""],
    }
    rows = [*found.layers, total]
    cells["weights"] = [f"{layer.weights:,}" for layer in rows]
    cells["sparsity"] = [f"{layer.sparsity:.2%}" for layer in rows]
    cells["frozen"] = [_yes(layer.frozen) for layer in found.layers] + [_how_many(found)]
    cells["smallest"] = [_number(layer.smallest) for layer in rows]
    cells["largest"] = [_number(layer.largest) for layer in rows]
    cells["no gradient"] = [_share(layer.untouched, layer.weights) for layer in rows]
    cells["MFLOPs"] = [_UNKNOWN if layer.flops is None else f"{layer.flops.nominal / 1e6:,.2f}" for layer in rows]
    cells["non-zero"] = [_UNKNOWN if layer.flops is None else f"{layer.flops.nonzero / 1e6:,.2f}" for layer in rows]
    unknown = [name for name, column in cells.items() if {*column} == {_UNKNOWN}]
    known = {name: column for name, column in cells.items() if name not in unknown}
    text = table(list(known), list(zip(*known.values(), strict=True)))
    head, rule, *lines = text.splitlines()
    return "\n".join([_title(found), "", head, rule, *lines[:-1], rule, lines[-1], "", *_notes(found, unknown)])


def as_json(found: Inspection) -> str:
    """Make JSON: fractions and counts are numbers, what is not known is null."""
    content = {
        "path": found.path,
        "network": found.network,
        "epoch": found.epoch,
        "step": found.step,
        "input_shape": found.input_shape and list(found.input_shape),
        "layers": [_record(layer) for layer in found.layers],
        "total": {
            name: value for name, value in _record(found.total).items() if name not in ("layer", "shape", "frozen")
        },
        "others": {"tensors": found.other_tensors, "values": found.other_values},
    }
    return json.dumps(content, indent=2)


def as_csv(found: Inspection) -> str:
    """Make CSV, a line for each layer and none for all; what is not known is empty, shapes are like 64x3x7x7."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator="\n")
    writer.writeheader()
    for layer in found.layers:
        record = _record(layer)
        writer.writerow(record | {"shape": "x".join(map(str, layer.shape))})
    return text.getvalue().removesuffix("\n")


def _record(layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.name,
        "shape": list(layer.shape),
        "weights": layer.weights,
        "zeros": layer.zeros,
        "sparsity": layer.sparsity,
        "masked": layer.masked,
        "frozen": layer.frozen,
        "smallest": layer.smallest,
        "largest": layer.largest,
        "infinite": layer.infinite,
        "untouched": layer.untouched,
        "flops": layer.flops and layer.flops.nominal,
        "flops_nonzero": layer.flops and layer.flops.nonzero,
    }


def _title(found: Inspection) -> str:
    kind = "tensors of an unknown network" if found.network is None else found.network
    when = "bare weights" if found.epoch is None else f"checkpoint of epoch {found.epoch}, step {found.step}"
    return f"{found.path}: {kind}, {when}"


def _notes(found: Inspection, unknown: list[str]) -> list[str]:
    total = found.total
    notes = []
    if total.infinite:
        names = [layer.name for layer in found.layers if layer.infinite]
        notes.append(f"NaN or infinite: {total.infinite:,} weights, first in `{shown(names[0])}`.")
    if total.masked:
        notes.append(f"Masks held {total.masked:,} weights at zero when this file was written.")
    notes.append("smallest, largest: magnitudes of the weights that are not zero.")
    if "no gradient" not in unknown:
        notes.append("no gradient: weights that have not received one since training began; they keep their value.")
    if found.input_shape is not None:
        shape = "x".join(map(str, found.input_shape))
        notes.append(f"FLOPs for one input of {shape}, 2 for a multiply-add; dense kernels compute the zeros too.")
    if found.other_tensors:
        notes.append(
            f"Not in the table: {found.other_values:,} values in {found.other_tensors} other tensors (biases, norms, "
            "buffers)."
        )
    if unknown:
        hint = "; name its class with `--model module.Class` for FLOPs" if found.network is None else ""
        notes.append(f"Not known from this file: {', '.join(unknown)}{hint}.")
    return notes


def _how_many(found: Inspection) -> str:
    known = [layer.frozen for layer in found.layers]
    return _UNKNOWN if None in known else f"{sum(map(bool, known))} of {len(known)}"


def _yes(value: bool | None) -> str:
    return _UNKNOWN if value is None else "yes" if value else "no"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _share(part: int | None, whole: int) -> str:
    return _UNKNOWN if part is None else f"{part / whole if whole else 0:.2%}"
