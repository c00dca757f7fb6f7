"""Save a checkpoint when SIGTERM or SIGINT stops training."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lit_prune.callbacks._base import Callback
from lit_prune.cli.signals import StopSignals
from lit_prune.errors import UnfinishedError
from lit_prune.training.callbacks.summary import format_epochs


class CheckpointOnSignal(Callback):
    """On a signal, saves a checkpoint and stops training at the next point from which the run can resume exactly.

    This point is the end of an epoch or of a batch. Training does not stop after a batch if gradients are still being
    accumulated or if validation comes next: the resumed run would lack these gradients, or this validation.

    Args:
        stopping: Handler of the signals.
        checkpoint: Path of the checkpoint to save; None saves no checkpoint.
        resume: Command that resumes the run, for the error message.

    Raises:
        UnfinishedError: When a signal has stopped training.
    """

    def __init__(self, stopping: StopSignals, checkpoint: Path | None, resume: str) -> None:
        self._stopping = stopping
        self._checkpoint = checkpoint
        self._resume = resume

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, save a checkpoint on a signal instead of stopping at once."""
        self._stopping.listen()  # replaces Lightning's handler, which would stop without saving a checkpoint
        self._stopping.patient = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """After a signal, save a checkpoint and stop if the run can resume exactly from this batch."""
        if self._is_stopped(trainer) and not _is_unsafe(trainer):
            self._save(trainer)
            raise self._error(trainer, f"in epoch {trainer.current_epoch}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a signal, save a checkpoint, because no `ModelCheckpoint` may be due to save one in this epoch."""
        if self._is_stopped(trainer):
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """After a signal, stop before the epoch starts."""
        if self._is_stopped(trainer):
            raise self._error(trainer, f"after {format_epochs(trainer)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """From now on, let signals stop the command at once again."""
        self._stopping.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """After an error, too, let signals stop the command at once again."""
        self._stopping.patient = False

    def _is_stopped(self, trainer: Trainer) -> bool:
        stopped = self._stopping.received is not None
        # if one process received the signal, all of them stop at the same batch
        return trainer.strategy.reduce_boolean_decision(stopped, all=False) if trainer.world_size > 1 else stopped

    def _save(self, trainer: Trainer) -> None:
        if self._checkpoint is not None:
            trainer.save_checkpoint(self._checkpoint, weights_only=False)

    def _error(self, trainer: Trainer, when: str) -> UnfinishedError:
        number = self._stopping.received or signal.SIGINT
        if self._checkpoint is None:
            saved = ". Nothing is saved, because `--trainer.enable_checkpointing` is false."
        elif self._checkpoint.is_file():
            saved = f"; everything is saved. Resume with {self._resume}."
        else:
            saved = ". No checkpoint was saved yet."
        return UnfinishedError(f"Stopped by {number.name} {when}{saved}", 128 + number)


def _is_unsafe(trainer: Trainer) -> bool:
    """Whether a run resumed at this batch would lack accumulated gradients, or the validation that comes next."""
    loop = trainer.fit_loop
    if trainer.is_last_batch or loop._should_accumulate():
        return True
    # Lightning has no public way to ask whether validation comes next
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
