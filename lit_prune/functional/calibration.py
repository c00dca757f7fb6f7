"""Batches on which criteria compute losses and gradients of a copy of a model."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import expected


@dataclass(frozen=True)
class Calibration:
    """A copy of a model, and its loss on a few batches.

    Attributes:
        model: Copy of the model; criteria may change it in any way.
        batches: Batches on the device of the copy. Each iteration gives the same batches.
        loss: Function of a batch and its index that returns the loss of the copy; batches for which it returns None are
            skipped.
    """

    model: nn.Module
    batches: Iterable[Any]
    loss: Callable[[Any, int], Tensor | None]

    def losses(self) -> Iterator[Tensor]:
        """Yield the loss of each batch, with its graph."""
        for index, batch in enumerate(self.batches):
            with torch.enable_grad():
                loss = self.loss(batch, index)
            if loss is not None:
                yield loss

    def first_inputs(self, weights: Sequence[Tensor]) -> tuple[nn.Module, tuple[Any, ...], dict[str, Any]]:
        """Return the outermost module that holds all these weights and is called for the first loss, and its arguments.

        Raises:
            InputError: If no such module is called.
        """
        calls: list[tuple[nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        chosen = set(map(id, weights))
        handles = [
            module.register_forward_pre_hook(lambda *call: calls.append(call), prepend=True, with_kwargs=True)
            for module in self.model.modules()
            if chosen <= set(map(id, module.parameters()))
        ]
        next(self.losses(), None)
        for handle in handles:
            handle.remove()
        if not calls:
            what = "`training_step` to call one module that contains all weights to prune"
            hint = "call the LightningModule itself, `self(inputs)`, or choose `layers` inside one module"
            raise expected(what, "no such call", hint)
        return calls[0]
