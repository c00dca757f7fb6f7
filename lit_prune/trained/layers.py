"""What there is to know about each layer of a trained network."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from lit_prune.callbacks.freezing import FROZEN_KEY
from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.checkpoint import KEY
from lit_prune.functional.flops import LayerFlops, flops, input_shape
from lit_prune.functional.selection import weight_layers
from lit_prune.trained.network import Network

__all__ = ["Inspection", "Layer", "inspect", "layer_weights", "shown"]

_SIZE = 32
_LONGEST = 80


@dataclass(frozen=True)
class Layer:
    """One layer of a trained network. None stands for what its file does not tell.

    Attributes:
        name: Qualified name of the layer.
        shape: Of its weight.
        weights: How many weights it has.
        zeros: How many of them are exactly zero.
        masked: How many of them a mask held at zero when the file was written.
        frozen: Whether it was frozen at the end of its training.
        smallest: The smallest magnitude of a weight that is not zero; None if all are.
        largest: The largest magnitude.
        infinite: How many weights are NaN or infinite; they have no part in the magnitudes.
        untouched: How many weights have never received a gradient.
        flops: What it computes for one input.

    Raises:
        InputError: If a count is not that of a part of the weights.
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
                f"parts of the {self.weights} weights of layer `{self.name}`", parts, "count the weights of one layer"
            )

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are exactly zero."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class Inspection:
    """What there is to know about a trained network.

    Attributes:
        path: The file that it was read from.
        network: The class of the model; None if it is not known.
        epoch: Of the checkpoint; None for bare weights.
        step: Of the checkpoint; None for bare weights.
        input_shape: Of the one input that FLOPs are counted for; None if they are not known.
        layers: In the order of the model, or of the file.
        other_tensors: Tensors of the file that are in no layer: biases, norms, buffers.
        other_values: Their values.
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
        """All layers as if they were one, without a name and a shape; None where it is None for one of them."""
        smallest = [layer.smallest for layer in self.layers if layer.smallest is not None]
        largest = [layer.largest for layer in self.layers if layer.largest is not None]
        return Layer(
            name="all",
            shape=(),
            weights=sum(layer.weights for layer in self.layers),
            zeros=sum(layer.zeros for layer in self.layers),
            masked=_sum(layer.masked for layer in self.layers),
            frozen=None,
            smallest=min(smallest, default=None),
            largest=max(largest, default=None),
            infinite=sum(layer.infinite for layer in self.layers),
            untouched=_sum(layer.untouched for layer in self.layers),
            flops=_all_flops([layer.flops for layer in self.layers]),
        )


def inspect(network: Network, input_size: int | Sequence[int] | None = None) -> Inspection:
    """Look at a trained network.

    Layers are its convolutions and linear layers. Where the architecture is not known, they are the tensors of its file
    that have at least two dimensions, embeddings among them, and nothing is known of FLOPs.

    Args:
        network: From `load_network`.
        input_size: What to count FLOPs for: the pixels of a side, or the shape of one input. None takes the model's
            `example_input_array`, or else images of 32x32 pixels; if it cannot compute these, nothing is known of
            FLOPs.

    Raises:
        InputError: If there is no layer, or an `input_size` was given that the model cannot compute.
    """
    weights = layer_weights(network)
    if not weights:
        raise expected(
            "a weight of two or more dimensions", f"none in `{network.path}`", "norms and biases alone make no layer"
        )
    counted, shape = _count(network, input_size)
    frozen = _frozen(network)
    knows_masks = bool(network.masks) or "callbacks" in network.content
    layers = []
    for name, weight in weights.items():
        mask, touched = network.masks.get(name), network.touched.get(name)
        smallest, largest, infinite = _magnitudes(weight)
        layers.append(
            Layer(
                name=name,
                shape=tuple(weight.shape),
                weights=weight.numel(),
                zeros=weight.numel() - int(weight.count_nonzero()),
                masked=int((~mask).count_nonzero()) if mask is not None else 0 if knows_masks else None,
                frozen=None if frozen is None else name in frozen,
                smallest=smallest,
                largest=largest,
                infinite=infinite,
                untouched=None if touched is None else int((~touched).count_nonzero()),
                flops=counted.get(name),
            )
        )
    taken = {id(weight) for weight in weights.values()}
    others = [tensor for tensor in network.state_dict.values() if id(tensor) not in taken]
    return Inspection(
        path=network.path,
        network=None if network.model is None else type(network.model).__name__,
        epoch=_whole(network.content.get("epoch")),
        step=_whole(network.content.get("global_step")),
        input_shape=shape,
        layers=tuple(layers),
        other_tensors=len(others),
        other_values=sum(tensor.numel() for tensor in others),
    )


def shown(name: str) -> str:
    """Return a name as a person may see it: a file of a stranger may name layers by what a terminal obeys."""
    text = name if name.isprintable() else name.encode("unicode_escape").decode()
    return shorten(text, _LONGEST) or "(itself)"


def layer_weights(network: Network) -> dict[str, Tensor]:
    """Return the weights of the layers by the names of these, as the file holds them."""
    state = network.state_dict
    if network.model is not None:
        try:
            names = [ref.name for ref in weight_layers(network.model)]
            return {name: state[f"{name}.weight"] for name in names}
        except (InputError, KeyError):  # weights that are computed from others, or no layer that we know
            pass
    return {
        name.removesuffix(".weight"): tensor
        for name, tensor in state.items()
        if tensor.dim() >= 2 and tensor.is_floating_point()
    }


def _count(
    network: Network, input_size: int | Sequence[int] | None
) -> tuple[Mapping[str, LayerFlops], tuple[int, ...] | None]:
    model = network.model
    if model is None:
        if input_size is not None:
            network.require_model()
        return {}, None
    example: Any = model.example_input_array
    if input_size is not None:
        return flops(model, input_size), input_shape(model, input_size)
    size = tuple(example.shape[1:]) if isinstance(example, Tensor) and example.dim() > 1 else _SIZE
    try:
        return flops(model, size), input_shape(model, size)
    except InputError:
        return {}, None


def _frozen(network: Network) -> set[str] | None:
    """Names of the modules that were frozen, if the file tells."""
    noted = network.content.get(FROZEN_KEY)
    if isinstance(noted, list):
        return {name for name in noted if isinstance(name, str)}
    own = network.content.get(KEY)
    ran = own.get("callbacks") if isinstance(own, Mapping) else None
    # our command line lists all callbacks of its run
    return set() if isinstance(ran, list) and "LayerFreezing" not in ran else None


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


def _magnitudes(weight: Tensor) -> tuple[float | None, float | None, int]:
    """Smallest and largest magnitude of what is neither zero nor no number, and how many are none."""
    finite = weight[weight.isfinite()].abs()
    kept = finite[finite != 0]
    infinite = weight.numel() - finite.numel()
    if not len(kept):
        return None, 0.0 if len(finite) else None, infinite
    return float(kept.min()), float(kept.max()), infinite


def _sum(values: Iterable[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _all_flops(values: Sequence[LayerFlops | None]) -> LayerFlops | None:
    if None in values:
        return None
    total = LayerFlops(0, 0)
    for value in values:
        if value is not None:
            total += value
    return total
