"""Make the variants of a network: the ways to run it whose costs are compared."""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_prune.accelerated.accelerate import accelerate
from lit_prune.accelerated.files import save_accelerated
from lit_prune.errors import InputError
from lit_prune.files.compressed import compressed_size
from lit_prune.functional import weight_layers
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.extras import silence_libraries
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.export.graphs import run_onnx, write_onnx
from lit_prune.trained.flops import LayerFlops, count_flops
from lit_prune.trained.inputs import SIZE, Inputs
from lit_prune.trained.scoring import Run

Kind = Literal["dense", "zeros", "lit-prune", "cropped", "accelerated", "int8", "onnx", "cropped onnx"]

MEANINGS: dict[Kind, str] = {
    "dense": "torch's own layers; small random weights replace any zero weights",
    "zeros": "torch's own layers, with the zeros of this network",
    "lit-prune": "LitResNet18, which skips dead taps (kernel positions that only ever see padding)",
    "cropped": "torch's own layers without kernel positions that only ever see padding; same outputs",
    "accelerated": "`lit_prune.accelerate` for each batch size: sparse or cropped products where these are faster",
    "int8": "torch's own layers, with linear and LSTM layers in 8 bits (dynamic quantization); other outputs",
    "onnx": "the exported file in ONNX Runtime, with batch norms folded into convolutions",
    "cropped onnx": "the exported file of the cropped network in ONNX Runtime",
}


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Attributes:
        network: Name of the network.
        kind: Way to run the network; `MEANINGS` explains each.
        forward: Function that computes logits from the inputs, for example from images (N, C, H, W).
        layout: Memory format of images with which `forward` is fastest.
        parameters: Number of values in weights, biases and norms.
        nonzero: Number of these values that are not zero.
        flops: FLOPs for one input; None if the network has weights whose FLOPs `count_flops` does not count.
        bytes: Size in bytes of the ONNX or accelerated file, or of the state dict written by `torch.save`.
        compressed: Size in bytes of the state dict as `export --compress` stores it, without the header; None for ONNX
            and accelerated files, and for "int8".
    """

    network: str
    kind: Kind
    forward: Run
    layout: torch.memory_format
    parameters: int
    nonzero: int
    flops: LayerFlops | None
    bytes: int
    compressed: int | None


def has_onnx() -> bool:
    """Return whether the packages for the ONNX variants are installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def make_variants(
    network: str,
    model: nn.Module,
    inputs: Inputs,
    folder: Path | None,
    reference: bool = True,
    batches: Sequence[int] = (),
    rounds: int = 7,
) -> Iterator[Variant]:
    """Make the variants of `model`, a module without masks that maps inputs to logits; the model is not changed.

    ONNX files are written to `folder`; None leaves out the ONNX variants. A network without zeros is its own "dense"
    variant. If it has zeros, "dense" is a copy with small random weights instead, made only if `reference` is true.
    The accelerated network exists for these `batches` only; its layers are measured in `rounds` rounds.

    Yields:
        The variants, in the order of `MEANINGS`. "zeros" exists only if the network has zeros, "lit-prune" only for a
        LitResNet18, the "cropped" ones only if the inputs are images, "accelerated" only if there are batches, and
        "int8" only if the network has linear or LSTM layers and can be run with them in 8 bits.
    """
    layout = torch.contiguous_format if inputs.image_size is None else torch.channels_last
    base = _channels_last(plain_copy(model))
    counts = _count(base, inputs)
    if all(ref.tensor.all() for ref in weight_layers(base)):
        yield Variant(network, "dense", inputs.feed(base), layout, **counts)
    else:
        if reference:
            dense = _replace_zeros(base)
            yield Variant(network, "dense", inputs.feed(dense), layout, **_count(dense, inputs))
        yield Variant(network, "zeros", inputs.feed(base), layout, **counts)
    if isinstance(model, LitResNet18):
        yield Variant(network, "lit-prune", model, torch.channels_last, **counts)
    exported: dict[Kind, tuple[nn.Module, dict[str, Any]]] = {"onnx": (base, counts)}
    if inputs.image_size is not None:
        channels, height, width = inputs.image_size
        cropped = _channels_last(crop_kernels(base, (height, width), channels))
        cropped_counts = _count(cropped, inputs)
        yield Variant(network, "cropped", inputs.feed(cropped), layout, **cropped_counts)
        exported["cropped onnx"] = (cropped, cropped_counts)
    if batches:
        networks = {batch: accelerate(base, inputs.arguments(batch), rounds=rounds) for batch in batches}
        sizes = {"bytes": _accelerated_bytes(networks[batches[0]]), "compressed": None}
        forwards = {batch: inputs.feed(accelerated) for batch, accelerated in networks.items()}
        run = partial(_run_batch, forwards)
        yield Variant(network, "accelerated", run, torch.contiguous_format, **(counts | sizes))
    quantized = _quantize(base, inputs)
    if quantized is not None:
        sizes = {"bytes": _state_bytes(quantized), "compressed": None}
        yield Variant(network, "int8", inputs.feed(quantized), layout, **(counts | sizes))
    if folder is None:
        return
    for kind, (module, known) in exported.items():
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        write_onnx(module, path, inputs)
        sizes = {"bytes": path.stat().st_size, "compressed": None}
        yield Variant(network, kind, run_onnx(path), torch.contiguous_format, **(known | sizes))


def _count(module: nn.Module, inputs: Inputs) -> dict[str, Any]:
    """Count the parameters, FLOPs and bytes of a variant."""
    parameters = list(module.parameters())
    flops = count_flops(module, SIZE, inputs.one())
    known = all(ref.name in flops for ref in weight_layers(module))
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
        "flops": sum(flops.values(), LayerFlops(0, 0)) if known else None,
        "bytes": _state_bytes(module),
        "compressed": compressed_size(module.state_dict()),
    }


def _state_bytes(module: nn.Module) -> int:
    file = io.BytesIO()
    torch.save(dict(module.state_dict()), file)
    return file.getbuffer().nbytes


def _accelerated_bytes(network: nn.Module) -> int:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network"
        save_accelerated(network, path)
        return path.stat().st_size


def _run_batch(forwards: Mapping[int, Run], *inputs: Tensor) -> Tensor:
    """Run the network that was accelerated for batches of this size."""
    return forwards[len(inputs[0])](*inputs)


def _quantize(module: nn.Module, inputs: Inputs) -> nn.Module | None:
    """Return a copy with linear and LSTM layers in 8 bits; None if there are none, or torch cannot make or run it."""
    layers = {nn.Linear, nn.LSTM}
    if not any(type(layer) in layers for layer in module.modules()):
        return None
    try:
        with silence_libraries():  # torch warns that another package will replace `torch.ao.quantization`
            quantized: nn.Module = torch.ao.quantization.quantize_dynamic(plain_copy(module), layers)  # type: ignore[no-untyped-call]
        inputs.check_accepted_by(quantized)  # a `forward` that reads a weight, as in torch's encoder layers, fails
    except (AttributeError, RuntimeError, InputError):
        return None
    return quantized


def _channels_last(module: nn.Module) -> nn.Module:
    """Convert a module to `channels_last`, the memory format with the fastest convolutions, which `fit` also uses."""
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.dim() == 4:
            tensor.data = tensor.data.contiguous(memory_format=torch.channels_last)
    return module


def _replace_zeros(module: nn.Module) -> nn.Module:
    """Copy a network, and replace zeros in each layer by random values of smaller magnitude than its other weights."""
    filled = plain_copy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ref in weight_layers(filled):
            weight = ref.tensor
            kept = weight[weight != 0].abs()
            smallest = float(kept.min()) if len(kept) else 0.01
            # at least 1% of the smallest magnitude, because `rand` alone could return zero
            drawn = smallest * (0.01 + 0.99 * torch.rand(weight.shape, generator=generator))
            signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
            weight.copy_(torch.where(weight == 0, drawn * signs, weight))
    return filled
