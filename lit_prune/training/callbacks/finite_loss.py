"""Stopping a training whose loss becomes NaN or infinite."""

import math
from pathlib import Path

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_prune.errors import UnfinishedError

# on a GPU each check waits for the device; there it happens every so many steps, and before each checkpoint
_EVERY = 50


class FiniteLoss(Callback):
    """Stops a training whose loss is NaN or infinite, before a checkpoint is written.

    On the CPU it stops before the backward pass, elsewhere within 50 steps.

    Args:
        checkpoint: Path of the last checkpoint, which need not exist yet, for the message; None for none.

    Raises:
        UnfinishedError: When the loss is NaN or infinite.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint
        self._unchecked: list[tuple[int, int, Tensor]] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss of a step, and check it if that is cheap or due."""
        self._unchecked.append((trainer.global_step, trainer.current_epoch, loss.detach()))
        if self._is_cheap(trainer, loss) or len(self._unchecked) >= _EVERY:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the noted losses."""
        self._check(trainer)

    on_validation_start = on_train_epoch_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Check the noted losses before they reach a checkpoint."""
        self._check(trainer)

    def _is_cheap(self, trainer: Trainer, loss: Tensor) -> bool:
        return loss.device.type == "cpu" and trainer.world_size == 1

    def _check(self, trainer: Trainer) -> None:
        noted, self._unchecked = self._unchecked, []
        finite = torch.stack([loss.isfinite().all() for *_, loss in noted]).tolist() if noted else []
        bad = not all(finite)
        if trainer.world_size > 1:  # one process that stopped alone would leave the others waiting
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if bad:
            step, epoch, loss = next((item for item, good in zip(noted, finite, strict=True) if not good), noted[-1])
            raise self._error(step, epoch, float(loss.sum()))

    def _error(self, step: int, epoch: int, loss: float) -> UnfinishedError:
        value = "NaN" if math.isnan(loss) else str(loss)
        saved = self._checkpoint is not None and self._checkpoint.is_file()
        where = f"The last good checkpoint is `{self._checkpoint}`." if saved else "There is no checkpoint yet."
        return UnfinishedError(
            f"The loss became {value} at step {step} (epoch {epoch + 1}). {where} Try a lower learning rate or "
            "`--trainer.gradient_clip_val 1`, or continue regardless with `--on_nan continue`."
        )
