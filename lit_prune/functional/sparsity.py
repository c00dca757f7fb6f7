"""Report how sparse a model is."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from lit_prune.errors import expected
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sharding import Split, local


@dataclass(frozen=True)
class LayerSparsity:
    """Sparsity of one layer.

    Attributes:
        name: Qualified name of the layer.
        weights: Number of weights.
        zeros: Number of weights that are exactly zero.
        masked: Number of weights that a mask holds at zero.

    Raises:
        InputError: If not 0 <= masked <= zeros <= weights.
    """

    name: str
    weights: int
    zeros: int
    masked: int

    def __post_init__(self) -> None:
        if not 0 <= self.masked <= self.zeros <= self.weights:
            raise expected(
                f"0 <= masked <= zeros <= weights in layer `{self.name}`",
                f"{self.masked}, {self.zeros}, {self.weights}",
                "masked weights are zeros, and zeros are weights",
            )

    @property
    def sparsity(self) -> float:
        """Fraction of the weights that are exactly zero."""
        return self.zeros / self.weights if self.weights else 0.0


@dataclass(frozen=True)
class SparsityReport:
    """Sparsity of a model; `str` formats it as a table.

    Attributes:
        layers: Chosen layers in the order of the model, at least one.

    Raises:
        InputError: If there is no layer, or if two layers have the same name.
    """

    layers: tuple[LayerSparsity, ...]

    def __post_init__(self) -> None:
        if not self.layers:
            raise expected("at least one layer in a report", "none", "choose weights with `weight_layers`")
        if len({layer.name for layer in self.layers}) < len(self.layers):
            raise expected("each layer once in a report", "a name that occurs twice", "choose weights of one model")

    @property
    def weights(self) -> int:
        """Number of weights."""
        return sum(layer.weights for layer in self.layers)

    @property
    def zeros(self) -> int:
        """Number of weights that are exactly zero."""
        return sum(layer.zeros for layer in self.layers)

    @property
    def masked(self) -> int:
        """Number of weights that masks hold at zero."""
        return sum(layer.masked for layer in self.layers)

    @property
    def sparsity(self) -> float:
        """Fraction of all weights that are exactly zero."""
        return LayerSparsity("", self.weights, self.zeros, self.masked).sparsity

    def __str__(self) -> str:
        rows = [("layer", "weights", "zeros", "masked", "sparsity")]
        for layer in (*self.layers, LayerSparsity("all", self.weights, self.zeros, self.masked)):
            weights, zeros, masked = (f"{count:,}" for count in (layer.weights, layer.zeros, layer.masked))
            rows.append((layer.name, weights, zeros, masked, f"{layer.sparsity:.2%}"))
        names, *numbers = zip(*rows, strict=True)
        columns = [[cell.ljust(max(map(len, names))) for cell in names]]
        columns += [[cell.rjust(max(map(len, column))) for cell in column] for column in numbers]
        lines = ["  ".join(row) for row in zip(*columns, strict=True)]
        rule = "-" * len(lines[0])
        return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])


def sparsity_report(weights: Sequence[WeightRef]) -> SparsityReport:
    """Count the zeros in weights, for example those of `weight_layers`; masked weights count as zeros.

    If weights are split between processes, all processes must call this, and all receive the same counts.
    """
    effective = [getattr(ref.module, ref.parameter) for ref in weights]  # with all masks applied
    masks = [current_mask(ref) for ref in weights]
    split = Split(effective)
    zeros = split.sums_by_weight([count_zeros(local(weight)) for weight in effective])
    masked = split.sums_by_weight([0 if mask is None else count_zeros(local(mask)) for mask in masks])
    names = [ref.name for ref in weights]
    return SparsityReport(tuple(map(LayerSparsity, names, split.sizes, zeros, masked)))


def count_zeros(values: Tensor) -> int:
    """Count the elements of a tensor that are zero or false."""
    return values.numel() - int(values.count_nonzero())
