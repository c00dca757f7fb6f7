"""Make the variants of a network: the ways to run it whose costs are compared."""

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_prune.files.compressed import compressed_size
from lit_prune.functional import weight_layers
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.flops import LayerFlops, count_flops, input_shape
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.export.graphs import run_onnx, write_onnx
from lit_prune.trained.inputs import Inputs

Kind = Literal["dense", "zeros", "lit-prune", "cropped", "onnx", "cropped onnx"]

MEANINGS: dict[Kind, str] = {
    "dense": "torch's own layers; small random weights replace any zero weights",
    "zeros": "torch's own layers, with the zeros of this network",
    "lit-prune": "LitResNet18, which skips dead taps (kernel positions that only ever see padding)",
    "cropped": "torch's own layers without kernel positions that only ever see padding; same outputs",
    "onnx": "the exported file in ONNX Runtime, with batch norms folded into convolutions",
    "cropped onnx": "the exported file of the cropped network in ONNX Runtime",
}


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Attributes:
        network: Name of the network.
        kind: Way to run the network; `MEANINGS` explains each.
        forward: Function that computes logits from inputs, for example images (N, C, H, W).
        layout: Memory format of the inputs with which `forward` is fastest.
        parameters: Number of values in weights, biases and norms.
        nonzero: Number of these values that are not zero.
        flops: FLOPs for one input.
        bytes: Size in bytes of the ONNX file, or of the state dict written by `torch.save`.
        compressed: Size in bytes of the state dict as `export --compress` stores it; None for ONNX files.
    """

    network: str
    kind: Kind
    forward: Callable[[Tensor], Any]
    layout: torch.memory_format
    parameters: int
    nonzero: int
    flops: LayerFlops
    bytes: int
    compressed: int | None


def has_onnx() -> bool:
    """Return whether the packages for the ONNX variants are installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def make_variants(
    network: str, model: nn.Module, input_size: int | list[int], folder: Path | None, reference: bool = True
) -> Iterator[Variant]:
    """Make the variants of `model`, a module without masks that maps inputs to logits; the model is not changed.

    ONNX files are written to `folder`; None leaves out the ONNX variants. A network without zeros is its own "dense"
    variant. If it has zeros, "dense" is a copy with small random weights instead, made only if `reference` is true.

    Yields:
        The variants, in the order of `MEANINGS`. "zeros" exists only if the network has zeros, "lit-prune" only for a
        LitResNet18, and the "cropped" ones only if the inputs are images.
    """
    shape = input_shape(model, input_size)
    layout = torch.channels_last if len(shape) == 3 else torch.contiguous_format
    base = _channels_last(plain_copy(model))
    counts = _count(base, input_size)
    if all(ref.tensor.all() for ref in weight_layers(base)):
        yield Variant(network, "dense", base, layout, **counts)
    else:
        if reference:
            dense = _fill_zeros(base)
            yield Variant(network, "dense", dense, layout, **_count(dense, input_size))
        yield Variant(network, "zeros", base, layout, **counts)
    if isinstance(model, LitResNet18):
        yield Variant(network, "lit-prune", model, torch.channels_last, **counts)
    exported: dict[Kind, tuple[nn.Module, dict[str, Any]]] = {"onnx": (base, counts)}
    if len(shape) == 3:
        cropped = _channels_last(crop_kernels(base, (shape[1], shape[2]), shape[0]))
        cropped_counts = _count(cropped, input_size)
        yield Variant(network, "cropped", cropped, layout, **cropped_counts)
        exported["cropped onnx"] = (cropped, cropped_counts)
    if folder is None:
        return
    for kind, (module, known) in exported.items():
        path = folder / f"{len(list(folder.iterdir()))}.onnx"
        write_onnx(module, path, Inputs.of(module, list(shape)))
        size = {"bytes": path.stat().st_size, "compressed": None}
        yield Variant(network, kind, run_onnx(path), torch.contiguous_format, **(known | size))


def _count(module: nn.Module, input_size: int | list[int]) -> dict[str, Any]:
    """Count the parameters, FLOPs and bytes of a variant."""
    parameters = list(module.parameters())
    file = io.BytesIO()
    torch.save(dict(module.state_dict()), file)
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
        "flops": sum(count_flops(module, input_size).values(), LayerFlops(0, 0)),
        "bytes": file.getbuffer().nbytes,
        "compressed": compressed_size(module.state_dict()),
    }


def _channels_last(module: nn.Module) -> nn.Module:
    """Convert a module to `channels_last`, the memory format with the fastest convolutions, which `fit` also uses."""
    return module.to(memory_format=torch.channels_last)


def _fill_zeros(module: nn.Module) -> nn.Module:
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
