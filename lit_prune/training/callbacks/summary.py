"""The end of a training: what came out, where it is, and the HParams entry that compares runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.files.checkpoint import FORMAT, KEY, Settings
from lit_prune.training.loggers import log_positions

__all__ = ["RunSummary"]

# metric -> its name in the HParams tab, after "final/"
_FINAL = {
    "train/loss": "train_loss",
    "train/acc": "train_acc",
    "val/loss": "val_loss",
    "val/acc": "val_acc",
    "sparsity/global": "sparsity",
}


class RunSummary(Callback):
    """Follows a training: keeps its settings in every checkpoint, fills TensorBoard's HParams tab, and sums it up.

    Logged once an epoch: `time/epoch`, its wall-clock time in seconds, validation included. Logged once, when `fit`
    ends: `best/val_acc`, `best/val_loss`, `final/train_loss`, `final/train_acc`, `final/val_loss`, `final/val_acc`
    (accuracies are fractions; the best epoch is the one of highest `val/acc`) and, where it is monitored,
    `final/sparsity`, beside the hyper-parameters. They have names of their own because HParams writes its metrics as
    scalars: under the name of a curve they would add a false point to it.

    Args:
        settings: What to keep in checkpoints, for those who resume or score them.
        hyperparameters: Flat names and plain values, the same names in all runs.
        continues: Whether the loggers go on in the folder of the run that wrote the checkpoint.
    """

    def __init__(
        self,
        settings: Settings,
        hyperparameters: Mapping[str, bool | int | float | str],
        continues: bool = False,
    ) -> None:
        self._settings = settings
        self.continues = continues
        self._hyperparameters = dict(hyperparameters)
        # the best epoch so far, also of the runs that this one goes on from: val_acc, val_loss, epoch, checkpoint
        self._best: dict[str, Any] = {}
        self._final: dict[str, float] = {}
        # what the Trainer will log of an epoch that has ended, once the checkpoints are written
        self._pending: dict[str, float] = {}
        self._ending = False
        self._began = self._epoch_began = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what a resumed or scored checkpoint has to know."""
        self._note_path(trainer)
        self._note_final(trainer)
        names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
        checkpoint[KEY] = {
            "format": FORMAT,
            "settings": self._settings,
            "max_epochs": trainer.max_epochs,
            "best": dict(self._best),
            "final": dict(self._final),
            "callbacks": names,
            "logs": log_positions(trainer.loggers),
            "pending": _about_to_be_logged(trainer) if self._ending else {},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on from the best epoch so far."""
        known = checkpoint.get(KEY, {})
        self._best = dict(known.get("best", {}))
        self._final = dict(known.get("final", {}))
        self._pending = dict(known.get("pending", {}))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and log what the run that wrote the checkpoint had no time for."""
        self._began = time.monotonic()
        if self.continues and self._pending:
            for logger in trainer.loggers:
                logger.log_metrics(self._pending, int(self._pending["epoch"]))
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that goes on in its middle."""
        self._epoch_began = time.monotonic()
        if self.continues:
            # Lightning spares the file that it resumed from, and so would leave a best epoch beside the next best one
            trainer.ckpt_path = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_began = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Know that the epoch before is over."""
        self._ending = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how long the epoch took."""
        self._ending = True
        pl_module.log("time/epoch", time.monotonic() - self._epoch_began)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare this epoch with the best one."""
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or "val/acc" not in metrics:
            return
        accuracy = float(metrics["val/acc"])
        if not self._best or accuracy > self._best["val_acc"]:
            loss, epoch = float(metrics["val/loss"]), trainer.current_epoch
            self._best = {"val_acc": accuracy, "val_loss": loss, "epoch": epoch, "checkpoint": ""}

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyper-parameters with the metrics that they led to."""
        self._note_path(trainer)
        self._note_final(trainer)
        metrics = {f"best/{name}": self._best[name] for name in ("val_acc", "val_loss") if self._best}
        metrics |= {f"final/{_FINAL[name]}": value for name, value in self._final.items()}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                logger.log_hyperparams(self._hyperparameters, metrics, step=trainer.current_epoch)
                logger.save()

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the highest `val/acc`, counted from 0."""
        return self._best.get("epoch")

    def text(self, trainer: Trainer) -> str:
        """Sum up a training that has ended, in a few lines for a person."""
        seconds = time.monotonic() - self._began
        lines = [f"Trained to epoch {trainer.current_epoch} of {trainer.max_epochs} in {seconds:.0f} s."]
        if best := self._best:
            line = (
                f"  best        val/acc {best['val_acc']:.4f}, val/loss {best['val_loss']:.4f} (epoch {best['epoch']})"
            )
            lines.append(line)
        if self._final:
            lines.append("  final       " + ", ".join(f"{name} {value:.4f}" for name, value in self._final.items()))
        if best and best["checkpoint"]:
            lines.append(f"  checkpoint  {_near(best['checkpoint'])}")
        if isinstance(trainer.logger, TensorBoardLogger):
            lines.append(f"  dashboard   tensorboard --logdir {_near(trainer.logger.root_dir)}")
        return "\n".join(lines)

    def _note_final(self, trainer: Trainer) -> None:
        known = trainer.callback_metrics
        self._final |= {name: float(known[name]) for name in _FINAL if name in known}

    def _note_path(self, trainer: Trainer) -> None:
        """Remember where the best epoch's checkpoint is, as soon as it is there."""
        for callback in trainer.checkpoint_callbacks:
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.monitor == "val/acc"
                and callback.best_model_score is not None
                and float(callback.best_model_score) == self._best.get("val_acc")
            ):
                self._best["checkpoint"] = callback.best_model_path


def _about_to_be_logged(trainer: Trainer) -> dict[str, float]:
    """What the Trainer logs of this epoch after its last hook, when the epoch's checkpoint is already written."""
    connector = trainer._logger_connector  # nothing public tells this from what has been logged already
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return metrics | {"epoch": trainer.current_epoch}


def _near(path: str) -> str:
    """A path as a person at this folder would type it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
