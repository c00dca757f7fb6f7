"""Keep the earlier values to which a pruning callback rewinds a model."""

from typing import Any

from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.rewinding import stored_values


class Rewinding:
    """Values of a model at the start of an epoch, kept until the last pruning step.

    Args:
        epoch: Epoch, counted from 0, at whose start values are copied. None: the model is never rewound.
    """

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch
        self._values: dict[str, Tensor] | None = None
        # sparsity at the last rewinding: after masks are removed, pruning up to this sparsity again does not rewind
        self._rewound = 0.0

    def reset(self) -> None:
        """Forget the values, before another model is trained."""
        self._values, self._rewound = None, 0.0

    def remember(self, model: nn.Module, epoch: int, is_start: bool, amount: float, owner: str) -> None:
        """Copy the values of a model at the start of the epoch to rewind to; raise an `InputError` if they were missed.

        `epoch` is the current epoch, `is_start` tells whether no batch of it was trained yet, `amount` is the final
        sparsity, and `owner` is the callback that the error message names.
        """
        if self.epoch is None or self._values is not None or amount <= self._rewound or epoch < self.epoch:
            return
        if epoch > self.epoch or not is_start:
            raise expected(
                f"the weights from the start of epoch {self.epoch}, to rewind to",
                f"a run that continues in epoch {epoch} without them",
                f"start from the beginning, or resume from a checkpoint written with this `rewind_to` of {owner}",
            )
        self._values = stored_values(model)

    def take(self, sparsity: float, amount: float) -> dict[str, Tensor] | None:
        """Return the values to rewind to after pruning to `sparsity`, if any; forget them once `amount` is reached."""
        values = self._values
        if values is None or sparsity <= self._rewound:
            return None
        self._rewound = sparsity
        if sparsity >= amount:
            self._values = None
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the values to rewind to (not copied), and the sparsity at the last rewind."""
        origin = None if self._values is None else {"epoch": self.epoch, "values": self._values}
        return {"rewound": self._rewound, "origin": origin}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the values of a checkpoint, if they are from the epoch to rewind to."""
        # checkpoints of early versions lack these keys
        self._rewound = state_dict.get("rewound", 0.0)
        origin = state_dict.get("origin")
        self._values = origin["values"] if origin is not None and origin["epoch"] == self.epoch else None
