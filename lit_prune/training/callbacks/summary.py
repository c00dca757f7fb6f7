"""The summary of a training: its results, where they are, and its entry in TensorBoard's HParams tab."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.files.checkpoint import FORMAT, KEY, Settings
from lit_prune.training.loggers import sync_logs

# metric -> its name in the HParams tab, after "final/"
_FINAL = {
    "train/loss": "train_loss",
    "train/acc": "train_acc",
    "val/loss": "val_loss",
    "val/acc": "val_acc",
    "sparsity/global": "sparsity",
}


class RunSummary(Callback):
    """Summarizes a training, stores its settings in every checkpoint, and fills TensorBoard's HParams tab.

    Logged each epoch: `time/epoch`, seconds of wall-clock time including validation. Logged with the hyper-parameters
    when `fit` ends: `best/val_acc` and `best/val_loss` of the epoch with the highest `val/acc`, and the last values
    `final/train_loss`, `final/train_acc`, `final/val_loss`, `final/val_acc` and `final/sparsity`, as far as they are
    logged. Accuracies are fractions. The names differ from those of the curves, since HParams would add a point to a
    curve of the same name.

    What it stores in checkpoints for a resumed run is listed in `lit_prune.training.resuming`.

    Args:
        settings: Settings to store in checkpoints, by group.
        hyperparameters: Plain values, under the same names in all runs.
        continues: Whether the run continues in the folder of the checkpoint that it starts from.
    """

    def __init__(
        self, settings: Settings, hyperparameters: Mapping[str, bool | int | float | str], continues: bool = False
    ) -> None:
        self._settings = settings
        self._continues = continues
        self._hyperparameters = dict(hyperparameters)
        self._best: dict[str, Any] = {}  # val_acc, val_loss, epoch and checkpoint of the best epoch so far
        self._final: dict[str, float] = {}
        self._pending: dict[str, float] = {}  # metrics that the run that wrote the checkpoint had not logged yet
        self._is_between_epochs = False
        self._start = self._epoch_start = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store settings, results and positions of the logs."""
        self._update(trainer)
        names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
        checkpoint[KEY] = {
            "format": FORMAT,
            "settings": self._settings,
            "max_epochs": trainer.max_epochs,
            "best": dict(self._best),
            "final": dict(self._final),
            "callbacks": names,
            "logs": sync_logs(trainer.loggers),
            "pending": _pending_metrics(trainer) if self._is_between_epochs else {},
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the results so far."""
        stored = checkpoint.get(KEY, {})
        self._best, self._final, self._pending = (dict(stored.get(key, {})) for key in ("best", "final", "pending"))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and log the metrics that are pending since the checkpoint."""
        self._start = time.monotonic()
        if self._continues and self._pending:
            for logger in trainer.loggers:
                logger.log_metrics(self._pending, int(self._pending["epoch"]))
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed in its middle."""
        self._epoch_start = time.monotonic()
        if self._continues:
            # Lightning never removes the file that it resumed from, not even a best epoch that is no longer the best
            trainer.ckpt_path = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_start = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Note that an epoch is under way."""
        self._is_between_epochs = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log how long the epoch took."""
        self._is_between_epochs = True
        pl_module.log("time/epoch", time.monotonic() - self._epoch_start)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare the epoch with the best one."""
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or "val/acc" not in metrics:
            return
        accuracy = float(metrics["val/acc"])
        if not self._best or accuracy > self._best["val_acc"]:
            loss, epoch = float(metrics["val/loss"]), trainer.current_epoch
            self._best = {"val_acc": accuracy, "val_loss": loss, "epoch": epoch, "checkpoint": ""}

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyper-parameters with the results."""
        self._update(trainer)
        metrics = {f"best/{name}": self._best[name] for name in ("val_acc", "val_loss") if self._best}
        metrics |= {f"final/{_FINAL[name]}": value for name, value in self._final.items()}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                logger.log_hyperparams(self._hyperparameters, metrics, step=trainer.current_epoch)
                logger.save()

    @property
    def best_epoch(self) -> int | None:
        """Epoch of the highest `val/acc`, counted from 0; None if it was not logged."""
        return self._best.get("epoch")

    def text(self, trainer: Trainer) -> str:
        """Return the summary of a finished training, in a few lines; epochs count from 1."""
        seconds = time.monotonic() - self._start
        of = f" of {trainer.max_epochs}" if (trainer.max_epochs or -1) > 0 else ""
        lines = [f"Trained to epoch {trainer.current_epoch}{of} in {seconds:.0f} s."]
        if best := self._best:
            scores = f"val/acc {best['val_acc']:.4f}, val/loss {best['val_loss']:.4f}"
            lines.append(f"  best        {scores} (epoch {best['epoch'] + 1})")
        if self._final:
            lines.append("  final       " + ", ".join(f"{name} {value:.4f}" for name, value in self._final.items()))
        if best and best["checkpoint"]:
            lines.append(f"  checkpoint  {_relative(best['checkpoint'])}")
        if isinstance(trainer.logger, TensorBoardLogger):
            lines.append(f"  dashboard   tensorboard --logdir {_relative(trainer.logger.root_dir)}")
        return "\n".join(lines)

    def _update(self, trainer: Trainer) -> None:
        """Note the latest metrics, and the path of the best checkpoint once it has been written."""
        metrics = trainer.callback_metrics
        self._final |= {name: float(metrics[name]) for name in _FINAL if name in metrics}
        for callback in trainer.checkpoint_callbacks:
            if (
                isinstance(callback, ModelCheckpoint)
                and callback.monitor == "val/acc"
                and callback.best_model_score is not None
                and float(callback.best_model_score) == self._best.get("val_acc")
            ):
                self._best["checkpoint"] = callback.best_model_path


def _pending_metrics(trainer: Trainer) -> dict[str, float]:
    """Metrics that the Trainer logs after the last hook of an epoch, when its checkpoint is already written."""
    connector = trainer._logger_connector  # nothing public separates them from those that have been logged
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return metrics | {"epoch": trainer.current_epoch}


def _relative(path: str) -> str:
    """Return a path relative to the current folder, if it is below it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
