"""Which weights have ever been given a gradient."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_prune.errors import expected
from lit_prune.functional.optimizer_state import remembered_gradients
from lit_prune.functional.selection import WeightRef

__all__ = ["GradientCoverage"]


class GradientCoverage:
    """Remembers which weights have received a gradient that is not zero.

    A weight without one cannot learn: taps of a kernel that see nothing but padding, inputs that are always zero,
    units that are dead. One byte is kept for each weight.

    Args:
        weights: For example from `weight_layers`.

    Example:
        >>> from torch import nn
        >>> from lit_prune.functional import weight_layers
        >>> model = nn.Conv2d(1, 1, 3, padding=1)  # at one pixel, eight of its nine taps see padding
        >>> coverage = GradientCoverage(weight_layers(model))
        >>> model(torch.ones(1, 1, 1, 1)).sum().backward()
        >>> coverage.update()
        >>> round(coverage.untouched, 4)
        0.8889
    """

    def __init__(self, weights: Sequence[WeightRef]) -> None:
        if not weights:
            raise expected("at least one weight to watch", "none", "choose them with `weight_layers`")
        self._weights = list(weights)
        self._touched = [torch.zeros_like(ref.tensor, dtype=torch.bool, requires_grad=False) for ref in weights]

    def update(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Take note of the gradients that the weights have now: call it after a backward pass.

        Args:
            optimizers: What these remember of earlier gradients counts too, so that not every step has to be looked at.
        """
        seen = [remembered_gradients(optimizer) for optimizer in optimizers]
        for ref, touched in zip(self._weights, self._touched, strict=True):
            for gradient in [ref.tensor.grad, *(remembered.get(ref.tensor) for remembered in seen)]:
                if gradient is not None:
                    touched.logical_or_(gradient)

    @property
    def untouched(self) -> float:
        """Fraction of the weights that have not received one non-zero gradient since the beginning."""
        total = sum(touched.numel() for touched in self._touched)
        return 1 - sum(int(touched.count_nonzero()) for touched in self._touched) / total

    def touched(self) -> dict[str, Tensor]:
        """Return for each layer, by name, a bool tensor: true for weights that have received a gradient."""
        return {ref.name: touched for ref, touched in zip(self._weights, self._touched, strict=True)}

    def restore(self, touched: Mapping[str, Tensor]) -> None:
        """Go on from what `touched` returned in another process.

        Raises:
            InputError: If it belongs to other layers or shapes.
        """
        for ref, mine in zip(self._weights, self._touched, strict=True):
            theirs = touched.get(ref.name)
            if theirs is None or theirs.shape != mine.shape:
                raise expected(
                    f"gradient coverage for layer `{ref.name}` with shape {tuple(mine.shape)}",
                    "none" if theirs is None else str(tuple(theirs.shape)),
                    "resume with the model that the checkpoint was made with",
                )
            mine.copy_(theirs)
