"""`lit-prune export`: write a trained network for other tools, and check the file before keeping it."""

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace

from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.errors import check_integer, expected
from lit_prune.files.atomic import replacing
from lit_prune.functional.extras import import_extra
from lit_prune.trained.export.accelerated import write_accelerated
from lit_prune.trained.export.check import Check, check, in_batches
from lit_prune.trained.export.graphs import check_opset, run_onnx, run_torchexport, write_onnx, write_torchexport
from lit_prune.trained.export.plan import GRAPHS, NETWORKS, Export, prepare
from lit_prune.trained.export.text import format_report
from lit_prune.trained.export.weights import write_weights
from lit_prune.trained.inputs import SIZE
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import Run, find_data_class, image_batches, make_data, wants_scores

_MAX_SIZE = 4096
# for each option that not all formats accept: the formats that do
_FORMATS = {
    "batch": NETWORKS,
    "compress": ("state_dict", "safetensors"),
    "crop": (*GRAPHS, "safetensors"),  # a state dict cannot store the paddings that cropping changes
    "opset": ("onnx",),
}


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune export` and return its exit status. If the export fails, `--output` is not written."""
    return run_command(_export, argv)


def _export(argv: Sequence[str]) -> None:
    options = _parse(argv)
    output = check_output(options.output, options.checkpoint)
    export = prepare(load_network(options.checkpoint, options.model), options)
    with replacing(output) as part:
        details, run = _write(export, part)
        checks = _check(export, run)
        size = part.stat().st_size
    print(format_report(export, details, checks, size))


def _parse(argv: Sequence[str]) -> Namespace:
    if find_data_class(argv) is not None:
        hint = "leave it out: the file is checked on random inputs, or with `--data.NAME` on images of CIFAR-10"
        raise expected("no data module for `export`", "`--data`", hint)
    parser = make_checkpoint_parser(
        "export",
        "Write a trained network to a file for other tools, without masks, and check that the file gives the same "
        "logits as the checkpoint: on random images and, with --limit or any --data option, on test images.",
        data="images",
    )
    parser.add_argument(
        "--format",
        type=Literal["onnx", "torchexport", "accelerated", "safetensors", "state_dict"],
        required=True,
        help="Format of the file.",
    )
    parser.add_argument("--output", type=str, required=True, help="File to write.")
    parser.add_argument(
        "--batch",
        type=int | Literal["dynamic"] | None,
        default=None,
        help="Batch size that the file accepts, or dynamic for any; only for onnx and torchexport (default: dynamic). "
        "For accelerated, the batch size for which it is fast (default: 1).",
    )
    parser.add_argument(
        "--input_size",
        type=int | list[int] | None,
        default=None,
        help="Height and width of the images, in pixels, or the shape of one input, such as [784] (default: inputs "
        "like the model's `example_input_array`, or images of 32x32 pixels if it has none).",
    )
    parser.add_argument(
        "--crop",
        action="store_true",
        help="Remove dead taps: kernel positions that only ever see padding if images have size --input_size. The "
        "file becomes smaller, but gives correct logits only for images of this size.",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        help="Store only nonzero weights, in a file that `lit_prune.load_compressed` reads; only for safetensors and "
        "state_dict.",
    )
    parser.add_argument(
        "--opset", type=int | None, default=None, help="Version of the ONNX operator set; only for onnx."
    )
    options = parse_checkpoint_command(parser, argv)
    hint = "give the height and width of the images, in pixels"
    for size in options.input_size if isinstance(options.input_size, list) else [options.input_size or SIZE]:
        check_integer("--input_size", size, 1, _MAX_SIZE, hint=hint)
    if isinstance(options.batch, int):
        check_integer("--batch", options.batch, 1, hint="`--batch dynamic` allows any batch size")
    for name, formats in _FORMATS.items():
        given = options[name] is not None and options[name] is not False
        if given and options.format not in formats:
            hint = f"leave `--{name}` out, or use `--format {formats[-1]}`"
            raise expected(f"`--format {' or '.join(formats)}` with `--{name}`", f"`{options.format}`", hint)
    if wants_scores(options) and options.input_size not in (None, SIZE):
        hint = "leave out `--limit` and all `--data` options to check on random images only"
        raise expected(f"`--input_size` {SIZE} to check on test images", options.input_size, hint)
    if options.format == "onnx":
        for package in ("onnx", "onnxscript", "onnxruntime"):
            import_extra(package, "export")
        if options.opset is not None:
            check_opset(options.opset)
    return options


def _write(export: Export, path: Path) -> tuple[str, Run | None]:
    """Write the file. Return details for the report, and a function that computes logits with the file (or None)."""
    options, module, inputs = export.options, export.module, export.inputs
    if module is not None and inputs is not None and options.format == "onnx":
        opset = write_onnx(module, path, inputs, export.batch, export.metadata, opset=options.opset)
        return f" with operators of version {opset}", in_batches(run_onnx(path), export.batch)
    if module is not None and inputs is not None and options.format == "torchexport":
        write_torchexport(module, path, inputs, export.batch, export.metadata)
        return "", in_batches(inputs.feed(run_torchexport(path)), export.batch)
    if module is not None and inputs is not None and options.format == "accelerated":
        network = write_accelerated(module, path, inputs, export.batch or 1, export.metadata)
        return str(network.acceleration), inputs.feed(network)
    stored = write_weights(export.state, path, options.format, options.compress, export.metadata)
    if module is None or inputs is None:
        return "", None
    loaded = deepcopy(module)
    for tensor in loaded.state_dict().values():
        tensor.zero_()  # so that every value has to come from the file
    loaded.load_state_dict(stored)
    return "", inputs.feed(loaded)


def _check(export: Export, run: Run | None) -> list[Check]:
    """Compare the file with the network on random inputs and, if requested, on test images."""
    options, inputs = export.options, export.inputs
    if run is None or inputs is None:
        return []  # the weights were compared, bit for bit
    model = inputs.feed(export.network.require_model())
    checks = [check(model, run, inputs.random(export.batch)).require(f"random {inputs.unit}")]
    if wants_scores(options):
        test = image_batches(make_data(export.network, options), "test", options.limit)
        checks.append(check(model, run, test).require("test images"))
    return checks
