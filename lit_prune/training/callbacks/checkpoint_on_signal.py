"""A checkpoint before SIGTERM or SIGINT ends a training."""

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.cli.signals import StopSignals
from lit_prune.errors import UnfinishedError

__all__ = ["CheckpointOnSignal"]


class CheckpointOnSignal(Callback):
    """Ends a training at the first moment that it can go on from, and writes a checkpoint there.

    That is after a batch. Where validation follows the batch it is a later one, or the end of the epoch, since
    Lightning would leave that validation out of a run that goes on; and gradients that add up are used first.

    Args:
        stopping: Is told of signals.
        folder: Where to write `last.ckpt`; None if the run is to have no checkpoints.
        again: What goes on with the run, for the hint.
    """

    def __init__(self, stopping: StopSignals, folder: Path | None, again: str) -> None:
        self._stopping = stopping
        self._path = folder and folder / "last.ckpt"
        self._again = again

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Be patient from here on."""
        self._stopping.listen()  # Lightning's own handler ends a training without a checkpoint
        self._stopping.patient = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop here if nothing else is to happen at this batch."""
        if self._is_stopped(trainer) and not _is_in_between(trainer):
            self._save(trainer)
            raise self._error(trainer, f"epoch {trainer.current_epoch}, after step {trainer.global_step}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write a checkpoint, which the run's own may do once more."""
        if self._is_stopped(trainer):
            self._save(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop between two epochs."""
        if self._is_stopped(trainer):
            raise self._error(trainer, f"epoch {trainer.current_epoch}, at its start")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The run has ended by itself."""
        self._stopping.patient = False

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """There is nothing to wait for any more."""
        self._stopping.patient = False

    def _is_stopped(self, trainer: Trainer) -> bool:
        stopped = self._stopping.received is not None
        # all processes stop at one batch, whichever of them was told
        return trainer.strategy.reduce_boolean_decision(stopped, all=False) if trainer.world_size > 1 else stopped

    def _save(self, trainer: Trainer) -> None:
        if self._path is not None:
            trainer.save_checkpoint(self._path, weights_only=False)

    def _error(self, trainer: Trainer, where: str) -> UnfinishedError:
        hint = "there is no checkpoint, as `--trainer.enable_checkpointing false` asks"
        if self._path is not None:
            hint = f"all of it is in `{self._path}`; {self._again} goes on"
        return self._stopping.error(f"to train to epoch {trainer.max_epochs}", hint, f" in {where}")


def _is_in_between(trainer: Trainer) -> bool:
    """Whether a checkpoint at this batch would lose gradients, or the validation that follows."""
    loop = trainer.fit_loop
    if trainer.is_last_batch or loop._should_accumulate():
        return True
    # nothing public says whether validation comes next
    return loop._data_fetcher is not None and loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
