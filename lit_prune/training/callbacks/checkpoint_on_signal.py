"""A checkpoint when SIGTERM or SIGINT stops a training."""

import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.cli.signals import StopSignals
from lit_prune.errors import UnfinishedError


class CheckpointOnSignal(Callback):
    """Stops a training on a signal, at the next step from which it can be resumed exactly, and saves a checkpoint.

    That is the end of a batch, unless validation follows, which Lightning would leave out of the resumed run, or
    gradients are still being accumulated.

    Args:
        stopping: Receiver of the signals.
        checkpoint: Path of the checkpoint; None saves none.
        resume: Command that resumes the run, for the message.

    Raises:
        UnfinishedError: When the training was stopped.
    """

    def __init__(self, stopping: StopSignals, checkpoint: Path | None, resume: str) -> None:
        self._stopping = stopping
        self._checkpoint = checkpoint
        self._resume = resume

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals wait for a checkpoint from now on."""
        self._stopping.listen()  # Lightning's own handler stops without a checkpoint
        self._stopping.patient = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and stop, unless the run could not be resumed exactly from here."""
        if self._is_stopped(trainer) and not _is_unsafe(trainer):
            self._save(trainer)
            raise self._error(trainer, f"in epoch {trainer.current_epoch + 1}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save, also if the run's own checkpoints are not saved each epoch."""
        if self._is_stopped(trainer):
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        if self._is_stopped(trainer):
            raise self._error(trainer, f"after epoch {trainer.current_epoch}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let signals stop the command at once again."""
        self._stopping.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Likewise after an error."""
        self._stopping.patient = False

    def _is_stopped(self, trainer: Trainer) -> bool:
        stopped = self._stopping.received is not None
        # all processes stop at the same batch, whichever of them received the signal
        return trainer.strategy.reduce_boolean_decision(stopped, all=False) if trainer.world_size > 1 else stopped

    def _save(self, trainer: Trainer) -> None:
        if self._checkpoint is not None:
            trainer.save_checkpoint(self._checkpoint, weights_only=False)

    def _error(self, trainer: Trainer, when: str) -> UnfinishedError:
        number = self._stopping.received or signal.SIGINT
        of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        if self._checkpoint is None:
            saved = ". Nothing is saved, because `--trainer.enable_checkpointing` is false."
        elif self._checkpoint.is_file():
            saved = f"; everything is saved. Resume with {self._resume}."
        else:
            saved = ". There is no checkpoint yet."
        return UnfinishedError(f"Stopped by {number.name} {when}{of}{saved}", 128 + number)


def _is_unsafe(trainer: Trainer) -> bool:
    """Whether a checkpoint at this batch would lose accumulated gradients, or the validation that follows."""
    loop = trainer.fit_loop
    if trainer.is_last_batch or loop._should_accumulate():
        return True
    # nothing public tells whether validation comes next
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
