"""Write networks as ONNX files with torch's exporter, and run them in ONNX Runtime."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, check_integer, expected, one_line
from lit_prune.trained.export.tracing import dynamic_shapes, example_images, one_sentence_failures
from lit_prune.trained.extras import import_extra, silence_libraries
from lit_prune.trained.scoring import Run

INPUT, OUTPUT = "images", "logits"
# the oldest version that torch's exporter writes without converting, in every release that is supported
_OLDEST_OPSET = 18
# an ONNX file is a protobuf message, which cannot be larger
_MAX_BYTES = 1 << 31


def check_opset(opset: int) -> None:
    """Raise an `InputError` if an ONNX opset, the version of its operators, is too old or too new to be written."""
    newest = int(import_extra("onnx", "export").defs.onnx_opset_version())
    check_integer("--opset", opset, _OLDEST_OPSET, newest, hint="leave it out for torch's default")


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
        module: Module that maps images (N, channels, size, size) to one tensor, in evaluation mode. Batch norms are
            folded into the convolutions before them, which keeps zeros.
        path: File to write.
        input_size: Height and width of the images, in pixels.
        batch: Batch size; None lets the file take any.
        metadata: Strings to store in the file.
        opset: Version of the operators; None takes torch's default.
        channels: Channels of the images.

    Returns:
        The version of the operators.

    Raises:
        InputError: If a package is not installed, or the network cannot be written as ONNX.
        OSError: If the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package, "export")
    if sum(tensor.nbytes for tensor in module.state_dict().values()) >= _MAX_BYTES:
        raise expected("weights of less than 2 GiB for ONNX", "more", "`--format safetensors` has no such limit")
    with silence_libraries(), one_sentence_failures("the ONNX exporter"):
        program = torch.onnx.export(
            module,
            (example_images(module, batch, channels, input_size),),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=dynamic_shapes(batch),
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - only the exporter without dynamo returns None
    model: Any = program.model
    written = int(model.opset_imports[""])
    if opset is not None and written != opset:
        what = f"`--opset` {written}, because torch cannot convert this network to other versions"
        raise expected(what, opset, f"give `--opset {written}`")
    _remove_source_lines(model)
    model.metadata_props.update(metadata or {})
    with silence_libraries():
        program.save(str(path), external_data=False)
    return written


def run_onnx(path: str | Path) -> Run:
    """Open an ONNX file in ONNX Runtime, on the CPU with as many threads as torch uses.

    Returns:
        The function that computes logits from images.

    Raises:
        InputError: If ONNX Runtime is not installed, or cannot run the file.
    """
    runtime = import_extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # errors are raised as well
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises errors of its own classes
        raise InputError(
            f"ONNX Runtime cannot run the file: {one_line(error)}. Give an earlier `--opset`, or update it with "
            "`pip install --upgrade onnxruntime`."
        ) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def _remove_source_lines(model: Any) -> None:
    """Remove the source lines, with paths of this machine, that the exporter stores with every operation."""
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
