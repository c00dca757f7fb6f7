"""Networks as ONNX files: written by torch's exporter, run by ONNX Runtime."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.trained.export.tracing import dynamic, example, traced
from lit_prune.trained.extras import import_extra, silence_libraries

__all__ = ["INPUT", "OUTPUT", "check_opset", "run_onnx", "write_onnx"]

INPUT, OUTPUT = "images", "logits"
# below it torch converts with luck; what every release that we support knows how to write
_OLDEST = 18
# a message of protobuf, which a file is, holds no more
_LARGEST = 1 << 31


def check_opset(opset: int) -> None:
    """Refuse a version of ONNX's operators that cannot be written.

    Raises:
        InputError: If it is too old or too new, or the extra `export` is not installed.
    """
    newest = int(import_extra("onnx", "export").defs.onnx_opset_version())
    if not _OLDEST <= opset <= newest:
        raise expected(f"`--opset` in [{_OLDEST}, {newest}]", opset, "leave it out for torch's own choice")


def write_onnx(
    module: nn.Module,
    path: str | Path,
    input_size: int,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    opset: int | None = None,
    channels: int = 3,
) -> int:
    """Write a network as one ONNX file, with the input `images` and the output `logits`.

    Args:
        module: Maps images (N, channels, size, size) to one tensor; in evaluation mode. Batch norms become part of the
            convolutions before them, which keeps zeros.
        path: The file.
        input_size: Height and width of the images, in pixels.
        batch: Images in a batch; None leaves their number open.
        metadata: Texts to store with it.
        opset: Version of the operators; None takes torch's default.
        channels: Of the images.

    Returns:
        The version of the operators.

    Raises:
        InputError: If a package is missing, or the network cannot be written so.
        OSError: If the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package, "export")
    if sum(tensor.nbytes for tensor in module.state_dict().values()) >= _LARGEST:
        raise expected("weights of less than 2 GiB for ONNX", "more", "`--format safetensors` has no such limit")
    with silence_libraries(), traced("ONNX"):
        program = torch.onnx.export(
            module,
            (example(module, batch, channels, input_size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=dynamic(batch),
            opset_version=opset,
            verbose=False,
        )
    if program is None:  # which is said of the exporter of old
        raise expected("a network that can be written as ONNX", "none", "name the network in a report of this")
    model: Any = program.model
    written = int(model.opset_imports[""])
    if opset is not None and written != opset:
        raise expected(f"operators of version {opset}", f"{written}, for some cannot be converted", "take that one")
    _forget_where_it_was_made(model)
    model.metadata_props.update(metadata or {})
    with silence_libraries():
        program.save(str(path), external_data=False)
    return written


def run_onnx(path: str | Path) -> Callable[[Tensor], Tensor]:
    """Open an ONNX file, to be run by ONNX Runtime on the CPU with as many threads as torch has.

    Returns:
        From images to logits.

    Raises:
        InputError: If ONNX Runtime is not installed, or does not know what is in the file.
    """
    runtime = import_extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # what is wrong is raised as well
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes, for operators or versions that it does not know
        found = " ".join(str(error).split()).rstrip(".")
        hint = "take an earlier `--opset`, or `pip install --upgrade onnxruntime`"
        raise expected("a file that ONNX Runtime can run", found, hint) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _forget_where_it_was_made(model: Any) -> None:
    """Leave out what the exporter notes of every operation: source lines, with the paths of this machine."""
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for function in model.functions.values():
        for node in function.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
