"""Write networks as graphs, which run without the network's Python code: as ONNX, or with `torch.export`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, UnfinishedError, check_integer, expected, one_line
from lit_prune.trained.extras import import_extra, silence_libraries
from lit_prune.trained.scoring import Run

INPUT, OUTPUT = "images", "logits"
# the oldest opset that torch's exporter writes without conversion, in every supported release of torch
_OLDEST_OPSET = 18
# an ONNX file is a protobuf message, which must be smaller than 2 GiB
_MAX_BYTES = 1 << 31


def check_opset(opset: int) -> None:
    """Raise an `InputError` if torch or onnx cannot write this opset, the version of ONNX operators."""
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

    The module must be in evaluation mode and map images (batch, channels, input_size, input_size) to one tensor. In the
    file, batch norms are folded into the preceding convolutions; zero weights stay zero. If `batch` is None, the file
    accepts batches of any size.

    Returns:
        The opset of the file. If `opset` is None, torch chooses it.

    Raises:
        InputError: If a package is not installed, or the network cannot be written as ONNX.
        OSError: If the file cannot be written.
    """
    for package in ("onnx", "onnxscript"):
        import_extra(package, "export")
    if sum(tensor.nbytes for tensor in module.state_dict().values()) >= _MAX_BYTES:
        raise expected("weights of less than 2 GiB for ONNX", "more", "`--format safetensors` has no such limit")
    with silence_libraries(), _one_sentence_failures("the ONNX exporter"):
        images, shapes = _example_images(module, batch, channels, input_size)
        program = torch.onnx.export(
            module,
            (images,),
            dynamo=True,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=shapes,
            opset_version=opset,
            verbose=False,
        )
    assert program is not None  # noqa: S101 - only the exporter without dynamo returns None
    model: Any = program.model
    written = int(model.opset_imports[""])
    if opset is not None and written != opset:
        what = f"`--opset` {written}, because torch cannot convert this network to other versions"
        raise expected(what, opset, f"give `--opset {written}`")
    # remove source lines, which contain paths of this machine, from every operation
    for graph in (model.graph, *model.functions.values()):
        for node in graph.all_nodes():
            node.metadata_props.clear()
            node.doc_string = None
            for value in node.outputs:
                value.metadata_props.clear()
    model.metadata_props.update(metadata or {})
    with silence_libraries():
        program.save(str(path), external_data=False)
    return written


def run_onnx(path: str | Path) -> Run:
    """Load an ONNX file into ONNX Runtime, and return a function from images to logits.

    The function runs on the CPU, with as many threads as torch uses.

    Raises:
        InputError: If ONNX Runtime is not installed, or cannot run the file.
    """
    runtime = import_extra("onnxruntime", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 4  # log only fatal errors, because other errors raise exceptions anyway
    try:
        session = runtime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime raises errors of its own classes
        raise InputError(
            f"ONNX Runtime cannot run the file: {one_line(error)}. Give an earlier `--opset`, or update ONNX Runtime "
            "with `pip install --upgrade onnxruntime`."
        ) from error

    def run(images: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {INPUT: images.numpy()})
        return torch.from_numpy(logits)

    return run


def write_torchexport(
    module: nn.Module,
    path: str | Path,
    input_size: int,
    batch: int | None,
    metadata: Mapping[str, str],
    channels: int,
) -> None:
    """Write a network as a file for `torch.export.load`; arguments and errors are those of `write_onnx`."""
    with silence_libraries(), _one_sentence_failures("torch.export"), torch.no_grad():
        images, shapes = _example_images(module, batch, channels, input_size)
        program = torch.export.export(module, (images,), dynamic_shapes=shapes)
    program.example_inputs = None  # the file does not need these images, which would make it larger
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines, with paths of this machine
    with silence_libraries(), Path(path).open("wb") as file:
        torch.export.save(program, file, extra_files=dict(metadata))


def run_torchexport(path: str | Path) -> Run:
    """Load a file written by `write_torchexport`, and return a function from images to logits."""
    with silence_libraries(), Path(path).open("rb") as file:
        run: Run = torch.export.load(file).module()
    return run


def _example_images(module: nn.Module, batch: int | None, channels: int, input_size: int) -> tuple[Tensor, Any]:
    """Return images and `dynamic_shapes` for tracing, after checking that the output has one row for each image."""
    # from a single image, torch would infer a fixed batch size of 1
    images = torch.zeros(batch or 2, channels, input_size, input_size)
    with torch.no_grad():
        try:
            output = module(images)
        except Exception as error:  # a custom `forward` may raise anything
            _raise_if_unrelated(error)
            what = f"a network that takes images of {channels}x{input_size}x{input_size}"
            raise expected(what, one_line(error), "pass the image size used in training as `--input_size`") from error
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(images):
        found = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        what = f"a network that returns one tensor, with {len(images)} rows for {len(images)} images"
        raise expected(what, found, "wrap the network in a module that does")
    return images, None if batch is not None else ({0: torch.export.Dim("batch")},)


@contextmanager
def _one_sentence_failures(exporter: str) -> Iterator[None]:
    """Turn an exporter's error into an `InputError` of one sentence."""
    try:
        yield
    except Exception as error:  # exporters raise errors of a dozen classes
        cause = _raise_if_unrelated(error)
        hint = "what `forward` does may depend on the shape of the images, but not on their pixel values"
        raise expected(f"a network that {exporter} can trace", one_line(cause), hint) from error


def _raise_if_unrelated(error: BaseException) -> BaseException:
    """Return the original cause of an error; if a cause is unrelated to the network, such as a full disk, raise it."""
    while True:
        if isinstance(error, InputError | UnfinishedError | OSError | MemoryError):
            raise error
        if error.__cause__ is None:
            return error
        error = error.__cause__
