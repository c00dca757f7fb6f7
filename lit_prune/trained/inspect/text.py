"""Format an `Inspection` as a table, as JSON or as CSV."""

import json
from typing import Any

from lit_prune.cli.tables import csv_text, table
from lit_prune.trained.layers import Inspection, Layer, printable_name

_UNKNOWN = "?"


def format_table(inspection: Inspection) -> str:
    """Make a table for a terminal, with totals and notes. Columns in which no value is known are left out."""
    layers, total = inspection.layers, inspection.total
    rows = [*layers, total]
    cells = {
        "layer": [*(printable_name(layer.name) for layer in layers), "all"],
        "shape": [*(_format_shape(layer.shape) for layer in layers), ""],
        "weights": [f"{layer.weights:,}" for layer in rows],
        "sparsity": [f"{layer.sparsity:.2%}" for layer in rows],
        "frozen": [{None: _UNKNOWN, True: "yes", False: "no"}[layer.frozen] for layer in layers],
        "smallest": [_format_number(layer.smallest) for layer in rows],
        "largest": [_format_number(layer.largest) for layer in rows],
        "no gradient": [
            _UNKNOWN if layer.untouched is None else f"{layer.untouched / max(layer.weights, 1):.2%}" for layer in rows
        ],
        "MFLOPs": [_UNKNOWN if layer.flops is None else f"{layer.flops.nominal / 1e6:,.2f}" for layer in rows],
        "non-zero": [_UNKNOWN if layer.flops is None else f"{layer.flops.nonzero / 1e6:,.2f}" for layer in rows],
    }
    frozen = [layer.frozen for layer in layers]
    cells["frozen"].append(_UNKNOWN if None in frozen else f"{frozen.count(True)} of {len(frozen)}")
    unknown = [name for name, column in cells.items() if {*column} == {_UNKNOWN}]
    known = {name: column for name, column in cells.items() if name not in unknown}
    *lines, last = zip(*known.values(), strict=True)
    title = inspection.network or "tensors of an unknown network"
    when = "epoch not known"
    if inspection.epoch is not None:
        when = f"checkpoint of epoch {inspection.epoch}, step {inspection.step}"
    title = f"{inspection.path}: {title}, {when}"
    return "\n".join([title, "", table(list(known), lines, last), "", *_notes(inspection, unknown)])


def format_json(inspection: Inspection) -> str:
    """Make JSON; fractions and counts are numbers, unknown values are null."""
    total = _record(inspection.total)
    content = {
        "path": inspection.path,
        "network": inspection.network,
        "epoch": inspection.epoch,
        "step": inspection.step,
        "input_shape": inspection.input_shape and list(inspection.input_shape),
        "layers": [_record(layer) for layer in inspection.layers],
        "total": {name: value for name, value in total.items() if name not in ("layer", "shape", "frozen")},
        "others": {"tensors": inspection.other_tensors, "values": inspection.other_values},
    }
    return json.dumps(content, indent=2)


def format_csv(inspection: Inspection) -> str:
    """Make CSV with a line for each layer; unknown values are empty, and shapes are written as 64x3x7x7."""
    return csv_text([_record(layer) | {"shape": _format_shape(layer.shape)} for layer in inspection.layers])


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


def _notes(inspection: Inspection, unknown: list[str]) -> list[str]:
    total = inspection.total
    notes = []
    if total.infinite:
        first = next(layer.name for layer in inspection.layers if layer.infinite)
        notes.append(f"NaN or infinite: {total.infinite:,} weights, first in `{printable_name(first)}`.")
    if total.masked:
        notes.append(f"Masks held {total.masked:,} weights at zero when this file was written.")
    notes.append("smallest, largest: magnitudes of the non-zero weights.")
    if "no gradient" not in unknown:
        notes.append("no gradient: fraction of the weights that have never received a gradient in training.")
    if "MFLOPs" not in unknown:
        shape = "like the model's `example_input_array`"
        if inspection.input_shape is not None:
            shape = f"of {_format_shape(inspection.input_shape)}"
        notes.append(f"MFLOPs: for one input {shape}; a multiply-add is 2 FLOPs.")
        notes.append("non-zero: MFLOPs of the non-zero weights alone.")
    if inspection.other_tensors:
        notes.append(
            f"Not in the table: {inspection.other_values:,} values in {inspection.other_tensors} other tensors "
            "(biases, norms, embeddings, buffers)."
        )
    if unknown:
        hint = "; to count FLOPs, name the network's class with `--model module.Class`"
        if inspection.network:
            hint = "; to count FLOPs, set `example_input_array` in the class" if "MFLOPs" in unknown else ""
        notes.append(f"Columns left out, because their values are not known: {', '.join(unknown)}{hint}.")
    return notes


def _format_shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _format_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"
