"""Accuracy of a network with only one layer pruned, for each layer, and the limits on sparsity that follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import isotonic_regression

from lit_prune.errors import expected
from lit_prune.trained.scoring import Score

# largest fraction of all weights that a suggestion may exclude to spare the most sensitive layers
_MAX_EXCLUDED = 0.05


class Limit(NamedTuple):
    """Suggested arguments of a global pruning callback.

    Attributes:
        max_layer_sparsity: Largest fraction of any layer to prune; 0 if a layer has no safe amount.
        exclude: Layers to leave unpruned.
        set_by: Most sensitive layer that is not excluded; its largest safe amount is the limit.
        share: Fraction of all weights that are in excluded layers.
    """

    max_layer_sparsity: float
    exclude: tuple[str, ...]
    set_by: str
    share: float


@dataclass(frozen=True)
class Sensitivity:
    """Accuracy of a network with one layer pruned, for each layer and several amounts.

    Attributes:
        path: Path of the network's file.
        split: Split of the data on which accuracy was measured.
        base: Score of the unchanged network.
        sizes: Number of weights by layer.
        amounts: Pruned fractions of a layer, ascending.
        scores: By layer, a list with one score for each amount.
        criterion: Criterion by which layers were pruned and, unless single weights were pruned, the structure.

    Raises:
        InputError: If a score is missing, or two scores count different numbers of images.
    """

    path: str
    split: str
    base: Score
    sizes: Mapping[str, int]
    amounts: Sequence[float]
    scores: Mapping[str, Sequence[Score]]
    criterion: str = "magnitude"

    def __post_init__(self) -> None:
        if not self.sizes or not self.amounts or list(self.sizes) != list(self.scores):
            raise expected("scores of every layer", f"{len(self.scores)} of {len(self.sizes)}", "measure every layer")
        for name, scores in self.scores.items():
            if len(scores) != len(self.amounts) or any(score.images != self.base.images for score in scores):
                raise expected(
                    f"{len(self.amounts)} scores on {self.base.images} images for layer `{name}`",
                    ", ".join(f"{score.right} of {score.images}" for score in scores) or "none",
                    "measure all amounts on the same images",
                )

    def changes(self, layer: str) -> list[float]:
        """Return the change in accuracy for each amount, in percentage points; negative if accuracy fell."""
        return [100 * (score.right - self.base.right) / self.base.images for score in self.scores[layer]]

    def safe(self, layer: str, tolerance: float) -> float:
        """Return the largest amount at which pruning a layer costs at most `tolerance` percentage points of accuracy.

        Accuracy on few images fluctuates, but the true accuracy should only fall as the amount grows. So the cost is
        taken from the non-increasing curve that fits `changes` best (isotonic regression).

        Returns:
            One of `amounts`, or 0.0 if all of them cost more.
        """
        decreasing = isotonic_regression(self.changes(layer), increasing=False).x
        # 1e-9 allows for rounding: losing 10 of 1,000 images is within a tolerance of 1.0
        within = [amount for amount, cost in zip(self.amounts, decreasing, strict=True) if cost >= -tolerance - 1e-9]
        return max(within, default=0.0)

    def limits(self, tolerance: float) -> list[Limit]:
        """Suggest a `max_layer_sparsity` for global pruning, for a tolerance in percentage points.

        Returns:
            The limit for all layers. If excluding the most sensitive layers (at most 5% of all weights) allows higher
            limits, the highest of these is the second item.
        """
        safe = {layer: self.safe(layer, tolerance) for layer in self.sizes}
        total = sum(self.sizes.values())
        limits: list[Limit] = []
        left = dict(safe)
        while left:
            lowest = min(left.values())
            exclude = tuple(layer for layer in self.sizes if layer not in left)
            share = sum(self.sizes[layer] for layer in exclude) / total
            if share > _MAX_EXCLUDED:
                break
            limits.append(Limit(lowest, exclude, next(n for n, value in left.items() if value == lowest), share))
            left = {layer: value for layer, value in left.items() if value > lowest}
        return [limits[0], *limits[1:][-1:]]
