"""Stop training when the loss becomes NaN or infinite."""

import math
from pathlib import Path

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor

from lit_prune.callbacks._base import Callback
from lit_prune.errors import UnfinishedError

# steps between two checks, if a check has to wait for a GPU or for other processes
_EVERY = 50


class FiniteLoss(Callback):
    """Stops training when the loss is NaN or infinite, at the latest before the next checkpoint would be written.

    A single process on the CPU checks each loss before the backward pass. On a GPU or with several processes, losses
    are checked every 50 steps, before validation, and before a checkpoint is written.

    Args:
        checkpoint: Path of the last checkpoint, for the error message; the file need not exist yet. None if the run
            saves no checkpoints.

    Raises:
        UnfinishedError: When the loss is NaN or infinite.
    """

    def __init__(self, checkpoint: Path | None) -> None:
        self._checkpoint = checkpoint
        self._unchecked: list[tuple[int, int, Tensor]] = []

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Record the loss of a step; check the recorded losses if a check is cheap, or after 50 steps."""
        # copied, because a loss that a CUDA graph computes is overwritten in the next step
        kept = loss.detach() if loss.device.type == "cpu" else loss.detach().clone()
        self._unchecked.append((trainer.global_step, trainer.current_epoch, kept))
        if self._is_cheap(trainer, loss) or len(self._unchecked) >= _EVERY:
            self._check(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the recorded losses."""
        self._check(trainer)

    on_validation_start = on_train_epoch_end

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, object]) -> None:
        """Check the recorded losses before the checkpoint is written."""
        self._check(trainer)

    def _is_cheap(self, trainer: Trainer, loss: Tensor) -> bool:
        return loss.device.type == "cpu" and trainer.world_size == 1

    def _check(self, trainer: Trainer) -> None:
        noted, self._unchecked = self._unchecked, []
        finite = torch.stack([loss.isfinite().all() for *_, loss in noted]).tolist() if noted else []
        bad = not all(finite)
        if (
            trainer.world_size > 1
        ):  # all processes must stop together; the others would wait forever for one that stopped alone
            bad = trainer.strategy.reduce_boolean_decision(bad, all=False)
        if bad:
            step, epoch, loss = next((item for item, good in zip(noted, finite, strict=True) if not good), noted[-1])
            raise self._error(step, epoch, float(loss.sum()))

    def _error(self, step: int, epoch: int, loss: float) -> UnfinishedError:
        value = "NaN" if math.isnan(loss) else str(loss)
        saved = self._checkpoint is not None and self._checkpoint.is_file()
        where = f"The last good checkpoint is `{self._checkpoint}`." if saved else "No checkpoint was saved yet."
        return UnfinishedError(
            f"The loss became {value} at step {step} (epoch {epoch}). {where} Try a lower learning rate or "
            "`--trainer.gradient_clip_val 1`, or continue despite such losses with `--on_nan continue`."
        )
