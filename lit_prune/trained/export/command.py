"""`lit-prune export`: a trained network as a file that other tools open, checked before it is kept."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Literal

from jsonargparse import Namespace
from torch import Tensor

from lit_prune.cli.run_command import run_command
from lit_prune.errors import UnfinishedError, expected
from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import read_state_dict, save
from lit_prune.files.compressed import read_compressed, write_compressed
from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.export.check import Check, check, in_batches, random_batches, same_bits
from lit_prune.trained.export.onnx import check_opset, run_onnx, write_onnx
from lit_prune.trained.export.plan import GRAPHS, Export, prepare, scored
from lit_prune.trained.export.safetensors import read_safetensors, write_safetensors
from lit_prune.trained.export.text import report
from lit_prune.trained.export.torch_export import run_torchexport, write_torchexport
from lit_prune.trained.extras import import_extra
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import batches, data_module

__all__ = ["main"]

Format = Literal["onnx", "torchexport", "safetensors", "state_dict"]
Run = Callable[[Tensor], Tensor]

# of the images that the project's data have
_SIDE = 32
_LARGEST_SIDE = 4096
_PACKAGES = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "torchexport": (),
    "safetensors": ("safetensors.torch",),
    "state_dict": (),
}


def main(argv: Sequence[str]) -> int:
    """Run `export`; see `lit-prune export --help`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if the file does not give the network's logits or could not be written, 2 for input that
        cannot be used. Unless it is 0, nothing is written.
    """
    return run_command(_export, argv)


def _export(argv: Sequence[str]) -> None:
    given = _parse(argv)
    output = check_output(given.output, given.checkpoint)
    export = prepare(load_network(given.checkpoint, given.model), given)
    with replacing(output) as part:
        opset, run = _write(export, part)
        checks = _compare(export, run)
        size = part.stat().st_size
    print(report(export, opset, checks, size))


def _parse(argv: Sequence[str]) -> Namespace:
    parser = make_checkpoint_parser(
        "export",
        "Write a trained network without masks as a file for other tools, and check that it gives the same logits: on "
        "random images, and with any of --data.NAME or --limit on test images too.",
        data=True,
    )
    parser.add_argument("--format", type=Format, required=True, help="What to write.")
    parser.add_argument("--output", type=str, required=True, help="The file to write.")
    parser.add_argument(
        "--batch",
        type=int | Literal["dynamic"] | None,
        default=None,
        help="Images in a batch, or dynamic for any number (default: dynamic; onnx and torchexport).",
    )
    parser.add_argument("--input_size", type=int, default=_SIDE, help="Height and width of the images.")
    parser.add_argument(
        "--crop",
        action="store_true",
        help="Leave out kernel taps that see padding alone at --input_size: smaller, and exact at that size alone.",
    )
    parser.add_argument(
        "--compress",
        action="store_true",
        help="Write only the weights that are not zero, for `lit_prune.load_compressed` (safetensors and state_dict).",
    )
    parser.add_argument("--opset", type=int | None, default=None, help="Version of the operators (onnx).")
    given = parse_checkpoint_command(parser, argv)
    _check(given)
    return given


def _check(given: Namespace) -> None:
    graph = given.format in GRAPHS
    if not 1 <= given.input_size <= _LARGEST_SIDE:
        hint = "it is the height and the width of the images, in pixels"
        raise expected(f"`--input_size` in [1, {_LARGEST_SIDE}]", given.input_size, hint)
    if isinstance(given.batch, int) and given.batch < 1:
        raise expected("`--batch` to be at least 1", given.batch, "`--batch dynamic` is for any number of images")
    if given.batch is not None and not graph:
        raise expected(f"`--batch` with {' or '.join(GRAPHS)}", f"`{given.format}`", "weights alone have no batch")
    if given.compress and graph:
        hint = "`--format safetensors --compress` writes the weights alone"
        raise expected("`--compress` with safetensors or state_dict", f"`{given.format}`", hint)
    if given.crop and given.format == "state_dict":
        hint = "`--format safetensors` keeps the new paddings in its metadata"
        raise expected("`--crop` with a format that can say so", "`state_dict`, which holds tensors alone", hint)
    if given.opset is not None and given.format != "onnx":
        raise expected("`--opset` with onnx", f"`{given.format}`", "other formats have no such version")
    if scored(given) and given.input_size != _SIDE:
        hint = "leave `--data` and `--limit` out to compare on random images of that size"
        raise expected(f"`--input_size` {_SIDE} for the images of the data", given.input_size, hint)
    for package in () if given.compress else _PACKAGES[given.format]:
        import_extra(package, "export")
    if given.opset is not None:
        check_opset(given.opset)


def _write(export: Export, path: Path) -> tuple[int | None, Run | None]:
    """Write the file; return the version of its operators if it is ONNX, and what runs it if anything can."""
    given, module = export.given, export.module
    if module is not None and given.format == "onnx":
        opset = write_onnx(
            module, path, given.input_size, export.batch, export.metadata, opset=given.opset, channels=export.channels
        )
        return opset, in_batches(run_onnx(path), export.batch)
    if module is not None and given.format == "torchexport":
        write_torchexport(module, path, given.input_size, export.batch, export.metadata, channels=export.channels)
        return None, in_batches(run_torchexport(path), export.batch)
    found = _write_weights(export, path)
    if found.keys() != export.state.keys() or not all(same_bits(found[n], t) for n, t in export.state.items()):
        what = "weights that come back from the file bit for bit"
        raise UnfinishedError(str(expected(what, "others", "nothing was written; look after this machine's memory")))
    if module is None:
        return None, None
    fresh = deepcopy(module)
    for tensor in fresh.state_dict().values():
        tensor.zero_()  # so that nothing but the file's weights can give the logits
    fresh.load_state_dict(found)
    return None, fresh


def _write_weights(export: Export, path: Path) -> dict[str, Tensor]:
    """Write the weights, and read them again."""
    state = export.state
    if export.given.compress:
        write_compressed(state, path, export.metadata)
        return read_compressed(path, sum(tensor.nbytes for tensor in state.values()))[0]
    if export.given.format == "safetensors":
        write_safetensors(state, path, export.metadata)
        return read_safetensors(path)[0]
    save({name: tensor.detach().cpu().clone() for name, tensor in state.items()}, path)
    return read_state_dict(path)


def _compare(export: Export, run: Run | None) -> list[Check]:
    """Compare the file with the network, on random images, and on real ones if they were asked for."""
    if run is None:
        return []
    given, model = export.given, export.network.require_model()
    images = random_batches(export.batch, export.channels, given.input_size)
    checks = [check(model, run, images).require("random images")]
    if scored(given):
        test = batches(data_module(export.network, given), "test", given.limit)
        checks.append(check(model, run, test).require("test images"))
    return checks
