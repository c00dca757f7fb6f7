"""The ways to run one trained network whose costs are compared."""

import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lit_prune.files.compressed import compressed_size
from lit_prune.functional import apply_masks, weight_layers
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.flops import LayerFlops, flops
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.trained.export.onnx import run_onnx, write_onnx

__all__ = ["MEANINGS", "Kind", "Variant", "has_onnx", "variants"]

Kind = Literal["dense", "zeros", "masked", "lit-prune", "cropped", "onnx", "cropped onnx"]

MEANINGS: dict[Kind, str] = {
    "dense": "torch's own layers, no weight of which is zero",
    "zeros": "the same layers, with the zeros of this network",
    "masked": "the same, its masks multiplied in at every call, as while it is trained",
    "lit-prune": "LitResNet18, which leaves out taps on padding as it goes",
    "cropped": "torch's own layers without these taps: a smaller file, the same outputs",
    "onnx": "ONNX Runtime on the exported file, batch norms folded into convolutions",
    "cropped onnx": "ONNX Runtime on the exported file of the cropped network",
}


@dataclass(frozen=True)
class Variant:
    """One way to run a network.

    Attributes:
        network: Which network, as a person calls it.
        kind: Which way.
        forward: Computes logits from images (N, 3, H, W).
        layout: The memory format in which it takes images soonest.
        parameters: Values in its weights, biases and norms.
        nonzero: Those that are not zero.
        flops: Of one image.
        bytes: Of its file: the state dict as `torch.save` writes it, or the ONNX file.
        compressed: Bytes of the compressed state dict; None for ONNX files.
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
    """Say whether what the ONNX variants need is installed."""
    return all(find_spec(name) is not None for name in ("onnx", "onnxscript", "onnxruntime"))


def variants(
    network: str, model: nn.Module, input_size: int, folder: Path | None, channels: int = 3, filled: bool = True
) -> Iterator[Variant]:
    """Make the ways to run a network.

    Args:
        network: What to call it.
        model: Any module that maps images to logits, not masked; it is left as it is.
        input_size: Height and width of the images.
        folder: Where to put ONNX files; None makes none.
        channels: Of the images.
        filled: Whether to begin with "dense" layers, to compare those with zeros with. A network without zeros does
            in any case.

    Yields:
        The variants, in the order of `MEANINGS`; "zeros" and "masked" only if there are zeros, and "lit-prune" only if
        the model is a LitResNet18.
    """
    base = _channels_last(plain_copy(model))
    masks = {ref.name: ref.tensor != 0 for ref in weight_layers(base)}
    counts = _counted(base, input_size)
    if all(mask.all() for mask in masks.values()):
        yield Variant(network, "dense", base, torch.channels_last, **counts)
    else:
        if filled:
            full = _filled(base)
            yield Variant(network, "dense", full, torch.channels_last, **_counted(full, input_size))
        yield Variant(network, "zeros", base, torch.channels_last, **counts)
        masked = plain_copy(base)
        apply_masks(masked, {name: mask for name, mask in masks.items() if not mask.all()})
        yield Variant(network, "masked", masked, torch.channels_last, **counts)
    if isinstance(model, LitResNet18):
        yield Variant(network, "lit-prune", model, torch.channels_last, **counts)
    crops = _channels_last(crop_kernels(base, input_size, channels))
    smaller = _counted(crops, input_size)
    yield Variant(network, "cropped", crops, torch.channels_last, **smaller)
    if folder is not None:
        exported: dict[Kind, tuple[nn.Module, dict[str, Any]]] = {
            "onnx": (base, counts),
            "cropped onnx": (crops, smaller),
        }
        for kind, (module, known) in exported.items():
            path = folder / f"{len(list(folder.iterdir()))}.onnx"
            write_onnx(module, path, input_size, channels=channels)
            size = {"bytes": path.stat().st_size, "compressed": None}
            yield Variant(network, kind, run_onnx(path), torch.contiguous_format, **(known | size))


def _counted(module: nn.Module, input_size: int) -> dict[str, Any]:
    """What a variant says of its module."""
    parameters = list(module.parameters())
    return {
        "parameters": sum(p.numel() for p in parameters),
        "nonzero": sum(int(p.count_nonzero()) for p in parameters),
        "flops": sum(flops(module, input_size).values(), LayerFlops(0, 0)),
        "bytes": _saved(module.state_dict()),
        "compressed": compressed_size(module.state_dict()),
    }


def _channels_last(module: nn.Module) -> nn.Module:
    """What torch's convolutions like best on CPUs, and what `fit` trains in."""
    return module.to(memory_format=torch.channels_last)


def _filled(module: nn.Module) -> nn.Module:
    """Copy a network as it may have been before the pruning: numbers below the smallest that is left, for zeros."""
    full = plain_copy(module)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for ref in weight_layers(full):
            weight = ref.tensor
            kept = weight[weight != 0].abs()
            smallest = float(kept.min()) if len(kept) else 0.01
            # no exact zero among them, which `rand` alone could draw
            drawn = smallest * (0.01 + 0.99 * torch.rand(weight.shape, generator=generator))
            signs = torch.randint(0, 2, weight.shape, generator=generator) * 2 - 1
            weight.copy_(torch.where(weight == 0, drawn * signs, weight))
    return full


def _saved(state: Mapping[str, Tensor]) -> int:
    file = io.BytesIO()
    torch.save(dict(state), file)
    return file.getbuffer().nbytes
