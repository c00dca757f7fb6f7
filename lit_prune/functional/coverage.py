"""Track which weights have ever received a gradient."""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from lit_prune.errors import expected
from lit_prune.functional.optimizer_state import remembered_gradients
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sharding import Split, local, part_like


class GradientCoverage:
    """Track which weights have received a non-zero gradient, in one byte of memory for each weight.

    A weight that never receives one cannot learn. Examples are a weight of a dead unit, and a weight whose input is
    always zero, such as one at a kernel position that only ever sees padding.

    Args:
        weights: Weights to watch, for example from `weight_layers`.

    Examples:
        >>> from torch import nn
        >>> from lit_prune.functional import weight_layers
        >>> model = nn.Conv2d(1, 1, 3, padding=1)  # on an image of one pixel, eight of nine weights only see padding
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
        self._split = Split([ref.tensor for ref in weights])
        self._touched = [torch.zeros_like(ref.tensor, dtype=torch.bool, requires_grad=False) for ref in weights]

    def update(self, optimizers: Iterable[Optimizer] = ()) -> None:
        """Record the gradients of a backward pass, and past ones that averages or sums of `optimizers` still show."""
        memories = [remembered_gradients(optimizer) for optimizer in optimizers]
        for ref, touched in zip(self._weights, self._touched, strict=True):
            for gradient in [ref.tensor.grad, *(memory.get(ref.tensor) for memory in memories)]:
                if gradient is not None:
                    gradient = local(gradient)
                    local(touched).logical_or_(gradient.to_dense() if gradient.is_sparse else gradient)

    @property
    def untouched(self) -> float:
        """Fraction of the weights that have never received a non-zero gradient."""
        counts = self._split.sums_by_weight([int(local(touched).count_nonzero()) for touched in self._touched])
        total: int = sum(self._split.sizes)
        return 1 - sum(counts) / total

    def touched(self) -> dict[str, Tensor]:
        """Return a bool tensor for each layer, by name: true for weights that have received a non-zero gradient."""
        return {ref.name: touched for ref, touched in zip(self._weights, self._touched, strict=True)}

    def restore(self, touched: Mapping[str, Tensor]) -> None:
        """Continue from the return value of `touched`, for example from a checkpoint.

        Raises:
            InputError: If `touched` lacks a watched layer, or has another shape for it.
        """
        for ref, mine in zip(self._weights, self._touched, strict=True):
            theirs = touched.get(ref.name)
            if theirs is None or theirs.shape != mine.shape:
                raise expected(
                    f"gradient coverage for layer `{ref.name}` with shape {tuple(mine.shape)}",
                    "none" if theirs is None else str(tuple(theirs.shape)),
                    "resume with the model that wrote the checkpoint",
                )
            local(mine).copy_(part_like(theirs, mine))
