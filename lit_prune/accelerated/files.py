"""Save accelerated networks as safetensors files with tensors and JSON, and load them without executing any code."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from math import prod
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from lit_prune.accelerated.attention import OpenAttention
from lit_prune.accelerated.conversion import convert
from lit_prune.accelerated.convolutions import GEOMETRY, ConvolutionMatrix, SparseConv2d
from lit_prune.accelerated.linear import SparseLinear, dense_linear
from lit_prune.accelerated.report import Acceleration, LayerTimes
from lit_prune.accelerated.semi_structured import SemiStructuredLinear
from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import check_state_dict
from lit_prune.functional.plain import plain_copy

# key and version of the JSON; increase the version with each change that older versions of lit-prune cannot read
_KEY, _FORMAT = "lit_prune.accelerated", 1
_SHAPES = ("input_shape", "used", "output_shape")  # of a `ConvolutionMatrix`
_KINDS: dict[type[nn.Module], str] = {
    ConvolutionMatrix: "matrix",
    SemiStructuredLinear: "2:4",
    SparseConv2d: "sparse convolution",
    SparseLinear: "sparse",
}


def save_accelerated(network: nn.Module, path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Save a network that `lit_prune.accelerate` returned, as one safetensors file.

    Args:
        network: Accelerated network.
        path: File to write. If writing fails, an existing file stays unchanged.
        metadata: Texts to store with the network, by name.

    Raises:
        InputError: If the network was not accelerated, or its state dict holds anything but dense tensors.
        OSError: If the file cannot be written.
    """
    report = getattr(network, "acceleration", None)
    if not isinstance(report, Acceleration):
        raise expected("a network that `lit_prune.accelerate` returned", type(network).__name__, "accelerate it first")
    state = network.state_dict()
    for name, value in state.items():
        if not isinstance(value, Tensor) or value.layout != torch.strided:
            raise expected("a state dict of dense tensors", f"`{name}` of another kind", "save it with `torch.save`")
    layers: dict[str, dict[str, Any]] = {}
    for name, module in network.named_modules():
        kind = _KINDS.get(type(module))
        if kind is not None and not any(name.startswith(f"{outer}.") for outer in layers):
            layers[name] = {"kind": kind}
            if isinstance(module, ConvolutionMatrix):
                layers[name] |= {key: getattr(module, key) for key in _SHAPES}
    attentions = {name: m.packed for name, m in network.named_modules() if isinstance(m, OpenAttention)}
    content = {"format": _FORMAT, "attentions": attentions, "layers": layers, "report": asdict(report)}
    # safetensors refuses tensors that share memory
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in state.items()}
    with replacing(path) as part:
        part.write_bytes(save(tensors, {**(metadata or {}), _KEY: json.dumps(content)}))


def load_accelerated(path: str | Path, model: nn.Module) -> nn.Module:
    """Load a network that `save_accelerated` wrote.

    Args:
        path: Path of the file. Nothing in it is executed.
        model: A network of the class and size that was accelerated, with any weights. It is not changed.

    Returns:
        The accelerated network in evaluation mode, on the CPU, with the report of `lit_prune.accelerate` as its
        attribute `acceleration`.

    Raises:
        InputError: If the file is missing, damaged or of another format, or if the model is another one.
    """
    content, tensors = _read(Path(path))
    try:
        network = convert(plain_copy(model).cpu(), content["attentions"], {})
        layers = {
            name: _rebuild(network.get_submodule(name), about, name, tensors)
            for name, about in content["layers"].items()
        }
        network = convert(network, {}, layers)
        report = content["report"]
        report = Acceleration(**report | {"layers": tuple(LayerTimes(**layer) for layer in report["layers"])})
    except (LookupError, TypeError, ValueError, AttributeError, RuntimeError, ArithmeticError) as error:
        hint = "give a model of the class and size that was accelerated"
        raise expected(f"`model` to be like the network in `{path}`", type(model).__name__, hint) from error
    check_state_dict(network, tensors, path)
    network.load_state_dict(tensors)
    for name, module in network.named_modules():
        if isinstance(module, SparseLinear) and not module.is_valid():
            raise InputError(f"`{path}` is damaged: the indices of `{name}` are impossible. Copy or save it again.")
    network.acceleration = report  # type: ignore[assignment]
    return network


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if not path.is_file():
        raise expected("the path of an accelerated network", f"`{path}`, which does not exist", "check the path")
    try:
        with safe_open(path, "pt") as file:
            content = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if content.get("format") != _FORMAT:
                found = f"`{path}`, which is of another format"
                hint = "if a newer lit-prune wrote the file, run `pip install --upgrade lit-prune`"
                raise expected("a file that `lit_prune.save_accelerated` wrote", found, hint)
            return content, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except InputError:
        raise
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error
    except (SafetensorError, AttributeError, ValueError, RecursionError) as error:
        found = f"`{path}`, which is something else, truncated or damaged"
        raise expected("a file that `lit_prune.save_accelerated` wrote", found, "save the network again") from error


def _rebuild(layer: Any, about: Mapping[str, Any], name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """Make the module that replaced a layer, for the stored tensors to be loaded into."""

    def stored(key: str) -> Tensor:
        return tensors[f"{name}.{key}".removeprefix(".")]

    has_bias = layer.bias is not None
    if about["kind"] == "sparse":
        return SparseLinear(layer.in_features, layer.out_features, len(stored("values")), has_bias)
    if about["kind"] == "sparse convolution":
        geometry = {key: getattr(layer, key) for key in GEOMETRY}
        return SparseConv2d(layer.in_channels, layer.out_channels, len(stored("product.values")), has_bias, geometry)
    if about["kind"] == "2:4":
        return SemiStructuredLinear(layer.weight, layer.bias)
    shapes: dict[str, Any] = {key: tuple(map(int, about[key])) for key in _SHAPES}
    if f"{name}.product.weight".removeprefix(".") in tensors:
        weight = torch.zeros_like(stored("product.weight"))
        return ConvolutionMatrix(
            **shapes, product=dense_linear(weight, weight.new_zeros(len(weight)) if has_bias else None)
        )
    inputs, outputs = layer.in_channels * prod(shapes["used"]), len(stored("product.crow_indices")) - 1
    return ConvolutionMatrix(**shapes, product=SparseLinear(inputs, outputs, len(stored("product.values")), has_bias))
