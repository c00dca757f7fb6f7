"""Inspect the layers of a trained network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from torch import Tensor

from lit_prune.callbacks.freezing import FROZEN_KEY
from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.checkpoint import KEY
from lit_prune.functional.selection import SAYS_WEIGHT, weight_layers
from lit_prune.trained.flops import LayerFlops, count_flops, input_shape
from lit_prune.trained.inputs import Inputs
from lit_prune.trained.network import Network

_DEFAULT_SIZE = 32
_MAX_NAME = 80

T = TypeVar("T", int, LayerFlops)


@dataclass(frozen=True)
class Layer:
    """One layer of a trained network. A value is None if it cannot be determined from the network's file.

    Attributes:
        name: Qualified name of the layer.
        shape: Shape of its weight.
        weights: Number of weights.
        zeros: Number of weights that are exactly zero.
        masked: Number of weights that a mask held at zero when the file was written.
        frozen: Whether `LayerFreezing` had frozen the layer when the file was written.
        smallest: Smallest magnitude of the finite non-zero weights; None if there is no such weight.
        largest: Largest magnitude of the finite weights; None if there is no such weight.
        infinite: Number of weights that are NaN or infinite.
        untouched: Number of weights that had received no gradient since training started.
        flops: FLOPs for one input.

    Raises:
        InputError: If a count is negative or larger than the number of weights.
    """

    name: str
    shape: tuple[int, ...]
    weights: int
    zeros: int
    masked: int | None
    frozen: bool | None
    smallest: float | None
    largest: float | None
    infinite: int
    untouched: int | None
    flops: LayerFlops | None

    def __post_init__(self) -> None:
        parts = (self.zeros, self.masked or 0, self.infinite, self.untouched or 0)
        if not all(0 <= part <= self.weights for part in parts):
            raise expected(
                f"counts from 0 to {self.weights} for layer `{self.name}`", parts, "count only weights of this layer"
            )

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are exactly zero."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Inspection:
    """The layers of a trained network, with the file and the training step that they come from.

    Attributes:
        path: Path of the network's file.
        network: Name of the model's class; None if the architecture is not known.
        epoch: Epoch in which the checkpoint was written, counted from 0; None for a state dict.
        step: Optimizer step after which the checkpoint was written; None for a state dict.
        input_shape: Shape of the input for which FLOPs are counted, without the batch dimension; None if no FLOPs are
            counted, or if the network takes several inputs or integers.
        layers: Layers in the model's order, or in the file's order if the architecture is not known.
        other_tensors: Number of tensors that are not weights of `layers`: biases, norms, embeddings, buffers.
        other_values: Number of values in those tensors.
    """

    path: str
    network: str | None
    epoch: int | None
    step: int | None
    input_shape: tuple[int, ...] | None
    layers: tuple[Layer, ...]
    other_tensors: int
    other_values: int

    @property
    def total(self) -> Layer:
        """All layers as one `Layer`, with sums for counts. A count is None if it is unknown for any layer."""
        smallest = (layer.smallest for layer in self.layers if layer.smallest is not None)
        largest = (layer.largest for layer in self.layers if layer.largest is not None)
        return Layer(
            name="all",
            shape=(),
            weights=sum(layer.weights for layer in self.layers),
            zeros=sum(layer.zeros for layer in self.layers),
            masked=_sum_known(0, (layer.masked for layer in self.layers)),
            frozen=None,
            smallest=min(smallest, default=None),
            largest=max(largest, default=None),
            infinite=sum(layer.infinite for layer in self.layers),
            untouched=_sum_known(0, (layer.untouched for layer in self.layers)),
            flops=_sum_known(LayerFlops(0, 0), (layer.flops for layer in self.layers)),
        )


def inspect(network: Network, input_size: int | Sequence[int] | None = None) -> Inspection:
    """Inspect a trained network.

    The result lists the weights that `weight_layers` chooses. If the architecture is not known, the result lists
    instead all floating-point tensors with at least two dimensions, embeddings included, and their FLOPs are None.

    FLOPs are counted for one input of `input_size`: the height and width of an image in pixels, or a shape without the
    batch dimension. By default, they are counted for one row of the model's `example_input_array`, or for an image of
    32x32 pixels if the model has none; if the model cannot process the default, FLOPs are None.

    Raises:
        InputError: If there is no layer; or, if `input_size` is given, if the architecture is not known or the forward
            pass fails.
    """
    weights = weight_tensors(network)
    if not weights:
        what = "a weight of two or more dimensions"
        raise expected(what, f"none in `{network.path}`", "biases and norms are not listed")
    layer_flops, shape = _count_flops(network, input_size)
    frozen = _frozen_modules(network)
    knows_masks = bool(network.masks) or "callbacks" in network.content
    layers = []
    for name, weight in weights.items():
        mask, touched = network.masks.get(name), network.touched.get(name)
        finite = weight[weight.isfinite()].abs()
        nonzero = finite[finite != 0]
        layers.append(
            Layer(
                name=name,
                shape=tuple(weight.shape),
                weights=weight.numel(),
                zeros=weight.numel() - int(weight.count_nonzero()),
                masked=int((~mask).count_nonzero()) if mask is not None else 0 if knows_masks else None,
                frozen=None if frozen is None else name in frozen or _module_name(name) in frozen,
                smallest=float(nonzero.min()) if len(nonzero) else None,
                largest=float(finite.max()) if len(finite) else None,
                infinite=weight.numel() - len(finite),
                untouched=None if touched is None else int((~touched).count_nonzero()),
                flops=layer_flops.get(name),
            )
        )
    taken = {id(weight) for weight in weights.values()}
    others = [tensor for tensor in network.state_dict.values() if id(tensor) not in taken]
    epoch, step = (network.content.get(key) for key in ("epoch", "global_step"))
    return Inspection(
        path=network.path,
        network=None if network.model is None else type(network.model).__name__,
        epoch=epoch if isinstance(epoch, int) else None,
        step=step if isinstance(step, int) else None,
        input_shape=shape,
        layers=tuple(layers),
        other_tensors=len(others),
        other_values=sum(tensor.numel() for tensor in others),
    )


def printable_name(name: str) -> str:
    """Shorten a layer's name, and escape control characters in it, because the file is untrusted."""
    text = name if name.isprintable() else name.encode("unicode_escape").decode()
    return shorten(text, _MAX_NAME) or "(the model)"


def weight_tensors(network: Network) -> dict[str, Tensor]:
    """Map each layer's name to its weight, with masks applied."""
    state = network.state_dict
    if network.model is not None:
        try:
            return {ref.name: state[ref.parameter_name] for ref in weight_layers(network.model)}
        except (InputError, KeyError):  # a weight is computed from other parameters, or no weight is found
            pass
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in state.items()
        if tensor.dim() >= 2 and tensor.is_floating_point()
    }


def _count_flops(
    network: Network, input_size: int | Sequence[int] | None
) -> tuple[Mapping[str, LayerFlops], tuple[int, ...] | None]:
    """Return the FLOPs by layer and the shape of the input; `{}` and None if FLOPs cannot be counted."""
    if input_size is not None:
        return count_flops(network.require_model(), input_size), input_shape(network.require_model(), input_size)
    if (model := network.model) is None:
        return {}, None
    example: Any = model.example_input_array
    size: int | tuple[int, ...] = _DEFAULT_SIZE
    if isinstance(example, Tensor) and example.dim() > 1 and example.is_floating_point():
        size, example = tuple(example.shape[1:]), None
    try:
        if example is not None:
            return count_flops(model, size, Inputs.of(model).one()), None
        return count_flops(model, size), input_shape(model, size)
    except InputError:
        return {}, None


def _frozen_modules(network: Network) -> set[str] | None:
    """Return the names of the modules that were frozen; None if the network's file does not say."""
    frozen = network.content.get(FROZEN_KEY)
    if isinstance(frozen, list):
        return {name for name in frozen if isinstance(name, str)}
    settings = network.content.get(KEY)
    callbacks = settings.get("callbacks") if isinstance(settings, Mapping) else None
    # `lit-prune fit` stores the names of all callbacks; without LayerFreezing among them, lit-prune froze no layer
    return set() if isinstance(callbacks, list) and "LayerFreezing" not in callbacks else None


def _module_name(name: str) -> str:
    """Return the name of the module that holds a weight: "lstm" for "lstm.weight_ih_l0", else the name itself."""
    module, _, parameter = name.rpartition(".")
    return module if SAYS_WEIGHT.search(parameter) else name


def _sum_known(total: T, values: Iterable[T | None]) -> T | None:
    """Return the sum of `total` and all values, or None if a value is None."""
    for value in values:
        if value is None:
            return None
        total += value
    return total
