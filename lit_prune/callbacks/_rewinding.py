"""What a pruning callback goes back to."""

from typing import Any

from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.rewinding import stored_values

__all__ = ["Rewinding"]


class Rewinding:
    """The values of a model at the start of an epoch, kept from then until the last pruning.

    Args:
        epoch: The epoch, counted from 0. None never rewinds.
    """

    def __init__(self, epoch: int | None) -> None:
        self.epoch = epoch
        self._values: dict[str, Tensor] | None = None
        # how sparse the model was when it was last rewound: what came off or was lost since is pruned without it
        self._rewound = 0.0

    def reset(self) -> None:
        """Begin with another model."""
        self._values, self._rewound = None, 0.0

    def remember(self, model: nn.Module, epoch: int, begins: bool, amount: float, owner: str) -> None:
        """Keep the values, when their epoch begins.

        Args:
            model: It is copied.
            epoch: The current one.
            begins: Whether nothing of the epoch has been trained yet.
            amount: The sparsity of the last pruning.
            owner: The class of the callback, for the message.

        Raises:
            InputError: If they are missing and it is too late.
        """
        if self.epoch is None or self._values is not None or amount <= self._rewound or epoch < self.epoch:
            return
        if epoch > self.epoch or not begins:
            raise expected(
                f"the weights from the start of epoch {self.epoch}, to rewind to",
                f"a run that goes on in epoch {epoch} without them",
                f"begin anew, or resume from a checkpoint that {owner} with this `rewind_to` is in",
            )
        self._values = stored_values(model)

    def take(self, sparsity: float, amount: float) -> dict[str, Tensor] | None:
        """Return the values to go back to after a pruning, if any, and let them go after the last one.

        Args:
            sparsity: What has been pruned to.
            amount: The sparsity of the last pruning.
        """
        values = self._values
        if values is None or sparsity <= self._rewound:
            return None
        self._rewound = sparsity
        if sparsity >= amount:
            self._values = None
        return values

    def state_dict(self) -> dict[str, Any]:
        """Return the values as they are, not copies, and how far they have been gone back to."""
        origin = None if self._values is None else {"epoch": self.epoch, "values": self._values}
        return {"rewound": self._rewound, "origin": origin}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the values of a checkpoint, if they are of the same epoch."""
        # checkpoints that are older than rewinding know nothing of it
        self._rewound = state_dict.get("rewound", 0.0)
        origin = state_dict.get("origin")
        self._values = origin["values"] if origin is not None and origin["epoch"] == self.epoch else None
