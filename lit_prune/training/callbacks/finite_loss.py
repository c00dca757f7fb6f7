"""A loss that is no number ends a training before it reaches the weights."""

from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_prune.errors import UnfinishedError, expected

__all__ = ["FiniteLoss"]

# on a GPU, looking at a number waits for it; so it is looked at now and then, and always before a checkpoint
_EVERY = 50


class FiniteLoss(Callback):
    """Stops a training whose loss is NaN or infinite; no checkpoint is ever written after such a loss.

    On the CPU it stops before the backward pass, elsewhere within 50 steps.

    Args:
        checkpoint: Where the last good checkpoint is, once there is one.

    Raises:
        UnfinishedError: When the loss is NaN or infinite; it names the step.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint
        self._seen: list[tuple[int, int, Tensor]] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss of a step."""
        self._seen.append((trainer.global_step, trainer.current_epoch, loss.detach()))
        if self._is_cheap(trainer, loss) or len(self._seen) >= _EVERY:
            self._look(trainer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at what has not been looked at, before this epoch's checkpoints."""
        self._look(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Likewise where nothing validates."""
        self._look(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Likewise before any other checkpoint."""
        self._look(trainer)

    def _is_cheap(self, trainer: Trainer, loss: Tensor) -> bool:
        return loss.device.type == "cpu" and trainer.world_size == 1

    def _look(self, trainer: Trainer) -> None:
        seen, self._seen = self._seen, []
        finite = torch.stack([loss.isfinite().all() for *_, loss in seen]) if seen else torch.ones(1, dtype=torch.bool)
        bad = not bool(finite.all())
        if trainer.world_size > 1:  # one process alone would leave the others waiting
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if not bad:
            return
        step, epoch, loss = next((item for item, good in zip(seen, finite, strict=False) if not good), seen[-1])
        raise UnfinishedError(str(self._error(step, epoch, float(loss.sum()))))

    def _error(self, step: int, epoch: int, loss: float) -> Exception:
        saved = self._checkpoint is not None and self._checkpoint.is_file()
        where = f"the last good checkpoint is `{self._checkpoint}`" if saved else "there is no checkpoint yet"
        return expected(
            "a finite loss",
            f"{loss} at step {step} (epoch {epoch})",
            f"{where}; try a lower learning rate or `--trainer.gradient_clip_val 1`, or `--on_nan continue` to run on",
        )
