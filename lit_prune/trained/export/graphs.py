"""Write networks as graphs, which run without the network's Python code: as ONNX, or with `torch.export`."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, UnfinishedError, check_integer, expected, one_line
from lit_prune.functional.extras import import_extra, silence_libraries
from lit_prune.trained.inputs import Inputs
from lit_prune.trained.scoring import Run

OUTPUT = "logits"
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
    inputs: Inputs,
    batch: int | None = None,
    metadata: Mapping[str, str] | None = None,
    *,
    opset: int | None = None,
) -> int:
    """Write a network as one ONNX file, with the names of `inputs` and the output `logits`.

    The module must be in evaluation mode and return one tensor. In the file, batch norms are folded into the preceding
    convolutions; zero weights stay zero. If `batch` is None, the file accepts batches of any size. If
    `inputs.have_rows` is false, it accepts only inputs of the shapes of `inputs.tensors`.

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
    # torch cannot trace all functions with `**kwargs`
    with silence_libraries(), _one_sentence_failures("the ONNX exporter"), _takes_positions(module, inputs):
        args, _, shapes = _trace_arguments(module, Inputs(inputs.tensors), batch)
        program = torch.onnx.export(
            module,
            args,
            dynamo=True,
            input_names=[*inputs.tensors],
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
    """Load an ONNX file into ONNX Runtime, and return a function from inputs, in the order of the file, to logits.

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

    names = [node.name for node in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        (logits,) = session.run([OUTPUT], {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})
        return torch.from_numpy(logits)

    return run


def write_torchexport(
    module: nn.Module,
    path: str | Path,
    inputs: Inputs,
    batch: int | None,
    metadata: Mapping[str, str],
) -> None:
    """Write a network as a file for `torch.export.load`; arguments and errors are those of `write_onnx`."""
    with silence_libraries(), _one_sentence_failures("torch.export"), torch.no_grad():
        args, kwargs, shapes = _trace_arguments(module, inputs, batch)
        program = torch.export.export(module, args, kwargs, dynamic_shapes=shapes)
    program.example_inputs = None  # the file does not need them, and they would make it larger
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # source lines, with paths of this machine
    with silence_libraries(), Path(path).open("wb") as file:
        torch.export.save(program, file, extra_files=dict(metadata))


def run_torchexport(path: str | Path) -> nn.Module:
    """Load a file written by `write_torchexport` as a module that takes the network's inputs."""
    with silence_libraries(), Path(path).open("rb") as file:
        loaded: nn.Module = torch.export.load(file).module()
    return loaded


def _trace_arguments(
    module: nn.Module, inputs: Inputs, batch: int | None
) -> tuple[tuple[Tensor, ...], dict[str, Tensor], Any]:
    """Return arguments and `dynamic_shapes` for tracing, after checking that the output has one row per input row."""
    # from a single row, torch would infer a fixed batch size of 1
    tensors = inputs.rows(batch or 2)
    with torch.no_grad():
        try:
            output = inputs.feed(module)(*tensors)
        except Exception as error:  # a custom `forward` may raise anything
            _raise_if_unrelated(error)
            hint = (
                "set `example_input_array` in the class or, for images, pass their size in training as `--input_size`"
            )
            raise expected(f"a network that takes {inputs}", f"the error: {one_line(error)}", hint) from error
    count = len(tensors[0]) if inputs.have_rows else None
    if not isinstance(output, Tensor) or output.dim() == 0 or (count is not None and len(output) != count):
        found = f"the shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        rows = f", with {count} rows for {count} {inputs.unit}" if count else ""
        hint = "wrap the network in a module that does"
        raise expected(f"a network that returns one tensor{rows}", found, hint)
    shapes: Any = torch.export.ShapesCollection()  # type: ignore[no-untyped-call]
    for tensor in tensors if count is not None and batch is None else ():
        shapes[tensor] = {0: torch.export.Dim("batch")}
    args = () if inputs.by_name else tensors
    kwargs = dict(zip(inputs.tensors, tensors, strict=True)) if inputs.by_name else {}
    return args, kwargs, shapes.dynamic_shapes(module, args, kwargs)


@contextmanager
def _takes_positions(module: nn.Module, inputs: Inputs) -> Iterator[None]:
    """Make a module take its inputs by position inside a `with` block."""
    if not inputs.by_name:
        yield
        return
    vars(module)["forward"] = inputs.feed(type(module).forward.__get__(module))
    try:
        yield
    finally:
        del vars(module)["forward"]


@contextmanager
def _one_sentence_failures(exporter: str) -> Iterator[None]:
    """Turn an exporter's error into an `InputError` of one sentence."""
    try:
        yield
    except Exception as error:  # exporters raise errors of a dozen classes
        cause = _raise_if_unrelated(error)
        hint = "what `forward` does may depend on the shapes of its inputs, but not on their values"
        raise expected(f"a network that {exporter} can trace", one_line(cause), hint) from error


def _raise_if_unrelated(error: BaseException) -> BaseException:
    """Return the original cause of an error; raise causes that are reported as they are, such as a full disk."""
    while True:
        if isinstance(error, InputError | UnfinishedError | OSError | MemoryError):
            raise error
        if error.__cause__ is None:
            return error
        error = error.__cause__
