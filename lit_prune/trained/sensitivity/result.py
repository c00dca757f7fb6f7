"""What pruning each layer alone costs, and which limits on the sparsity of layers follow from it."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from scipy.optimize import isotonic_regression

from lit_prune.cli.tables import table
from lit_prune.errors import expected
from lit_prune.trained.scoring import Score

__all__ = ["Limit", "Sensitivity", "points"]

# of all weights, as many may be left out of a pruning to spare layers that are more sensitive than the others
_SPARED = 0.05


class Limit(NamedTuple):
    """A limit for one pruning of several layers.

    Attributes:
        max_layer_sparsity: The largest fraction of a layer that may be zero; 0 stands for no pruning at all.
        exclude: The layers that are left out of it.
        set_by: The layer that needs it.
        share: The fraction of all weights that are in the layers left out.
    """

    max_layer_sparsity: float
    exclude: tuple[str, ...]
    set_by: str
    share: float


@dataclass(frozen=True)
class Sensitivity:
    """How good a network is when one layer of it is pruned, for each layer and several amounts.

    Attributes:
        path: The file of the network.
        split: Which images were scored.
        base: The score of the network as it is.
        sizes: Number of weights by layer.
        amounts: Fractions of a layer's weights that are zero, ascending.
        scores: For each layer a score for each amount.

    Raises:
        InputError: If a layer lacks a score, or images are not the same.
    """

    path: str
    split: str
    base: Score
    sizes: Mapping[str, int]
    amounts: Sequence[float]
    scores: Mapping[str, Sequence[Score]]

    def __post_init__(self) -> None:
        if not self.sizes or not self.amounts or list(self.sizes) != list(self.scores):
            raise expected("scores of every layer", f"{len(self.scores)} of {len(self.sizes)}", "score them all")
        for name, scores in self.scores.items():
            if len(scores) != len(self.amounts) or any(score.images != self.base.images for score in scores):
                raise expected(
                    f"{len(self.amounts)} scores on {self.base.images} images for layer `{name}`",
                    ", ".join(f"{score.right} of {score.images}" for score in scores) or "none",
                    "score all amounts on the same images",
                )

    def changes(self, layer: str) -> list[float]:
        """Return the change in accuracy for each amount, in percentage points; below zero is worse."""
        return [100 * (score.right - self.base.right) / self.base.images for score in self.scores[layer]]

    def safe(self, layer: str, tolerance: float) -> float:
        """Return how sparse a layer can be: the largest amount that costs no more than is tolerated.

        Accuracy on a few images goes up and down by chance. What pruning really costs can only grow with the amount,
        so it is read off the falling curve that fits the changes best (isotonic regression).

        Args:
            layer: Its name.
            tolerance: Percentage points of accuracy.

        Returns:
            One of `amounts`, or 0.0.
        """
        falling = isotonic_regression(self.changes(layer), increasing=False).x
        # a bound of 1.0 shall hold for 10 images of 1,000, whatever 100 * 10 / 1000 is in binary
        borne = [amount for amount, change in zip(self.amounts, falling, strict=True) if change >= -tolerance - 1e-9]
        return max(borne, default=0.0)

    def limits(self, tolerance: float) -> list[Limit]:
        """Suggest what to give a global pruning as `max_layer_sparsity`.

        Args:
            tolerance: Percentage points of accuracy that pruning one layer may cost.

        Returns:
            The limit that all layers can bear; and, if there is one, the highest limit that the others can bear when
            the most sensitive layers, with at most 5% of all weights, are left out.
        """
        safe = {layer: self.safe(layer, tolerance) for layer in self.sizes}
        total = sum(self.sizes.values())
        limits: list[Limit] = []
        left = dict(safe)
        while left:
            lowest = min(left.values())
            exclude = tuple(layer for layer in self.sizes if layer not in left)
            share = sum(self.sizes[layer] for layer in exclude) / total
            if share > _SPARED:
                break
            limits.append(Limit(lowest, exclude, next(n for n, value in left.items() if value == lowest), share))
            left = {layer: value for layer, value in left.items() if value > lowest}
        return [limits[0], *limits[1:][-1:]]

    def as_table(self, tolerance: float) -> str:
        """Make a table for a terminal, changes in percentage points, and the suggestion below it."""
        head = ["layer", "weights", *(f"{100 * amount:g}%" for amount in self.amounts), "safe"]
        rows = [
            [
                name,
                f"{size:,}",
                *(f"{change:+.1f}" for change in self.changes(name)),
                f"{self.safe(name, tolerance):g}",
            ]
            for name, size in self.sizes.items()
        ]
        title = (
            f"{self.path}: {self.base.accuracy:.2%} {self.split} accuracy on {self.base.images:,} images.\n"
            "Change in percentage points when each layer alone is pruned to:"
        )
        rule = (
            f"safe: the largest of these sparsities that costs at most {points(tolerance)} (`--tolerance`), on the "
            f"falling curve\nthat fits the changes best; one image is {100 / self.base.images:.2g} points. "
            "Layers that are pruned together cost more."
        )
        return "\n".join([title, "", table(head, rows), "", rule, *self._suggestion(tolerance)])

    def as_json(self, tolerance: float) -> str:
        """Make JSON, all accuracies and sparsities as fractions."""
        content = {
            "path": self.path,
            "split": self.split,
            "images": self.base.images,
            "accuracy": self.base.accuracy,
            "tolerance_points": tolerance,
            "amounts": list(self.amounts),
            "layers": [
                {
                    "layer": name,
                    "weights": size,
                    "accuracy": [score.accuracy for score in self.scores[name]],
                    "max_layer_sparsity": self.safe(name, tolerance),
                }
                for name, size in self.sizes.items()
            ],
            "suggestions": [limit._asdict() for limit in self.limits(tolerance)],
        }
        return json.dumps(content, indent=2)

    def as_csv(self, tolerance: float) -> str:
        """Make CSV, a line for each layer and amount; accuracies are fractions."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(["layer", "weights", "amount", "accuracy", "change_points", "max_layer_sparsity"])
        for name, size in self.sizes.items():
            safe = self.safe(name, tolerance)
            for amount, score, change in zip(self.amounts, self.scores[name], self.changes(name), strict=True):
                writer.writerow([name, size, amount, score.accuracy, round(change, 6), safe])
        return text.getvalue().removesuffix("\n")

    def _suggestion(self, tolerance: float) -> list[str]:
        lines = []
        for limit in self.limits(tolerance):
            found = (
                f"max_layer_sparsity={limit.max_layer_sparsity:g}"
                if limit.max_layer_sparsity
                else "no pruning at the amounts that were measured"
            )
            if not limit.exclude:
                lines.append(f"Suggestion for a global pruning of all these layers: {found}, for `{limit.set_by}`.")
            else:
                lines.append(f"Without the most sensitive ones, {limit.share:.1%} of the weights: {found}")
                lines.append(f"  exclude={json.dumps(limit.exclude)}")
        return lines


def points(tolerance: float) -> str:
    """Write percentage points out."""
    return f"{tolerance:g} point{'' if tolerance == 1 else 's'}"
