"""The summary printed after training, and the run's entry in TensorBoard's HParams tab."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import base_names
from lit_prune.files.checkpoint import FORMAT, KEY, Settings
from lit_prune.training.loggers import sync_logs

# metric -> its name after "final/" in the HParams tab
_FINAL = {
    "train/loss": "train_loss",
    "train/acc": "train_acc",
    "val/loss": "val_loss",
    "val/acc": "val_acc",
    "sparsity/global": "sparsity",
}


class RunSummary(Callback):
    """Summarizes training, stores the settings in every checkpoint, and fills TensorBoard's HParams tab.

    Logged each epoch: `time/epoch`, the wall-clock time of the epoch in seconds, including validation.
    Logged with the hyper-parameters when `fit` ends, if the run has these metrics: `best/val_acc` and `best/val_loss`
    from the epoch with the highest `val/acc`, and `final/train_loss`, `final/train_acc`, `final/val_loss`,
    `final/val_acc` and `final/sparsity` from the last epoch. Accuracies are in [0, 1]. The names differ from names of
    curves, such as `val/acc`, because TensorBoard would otherwise add a point to the curves.

    `lit_prune.training.resuming` lists the entries that this callback adds to checkpoints.

    Args:
        settings: Settings to store in checkpoints, as `collect_settings` returns them.
        hyperparameters: Hyper-parameters to log, by name.
        continues: Whether the run resumes in the folder of its checkpoint, rather than in a new folder.

    Attributes:
        hyperparameters: The hyper-parameters.
        logs_hyperparameters: Whether to log them when `fit` ends.
    """

    def __init__(
        self, settings: Settings, hyperparameters: Mapping[str, bool | int | float | str], continues: bool = False
    ) -> None:
        self._settings = settings
        self._continues = continues
        self.hyperparameters = dict(hyperparameters)
        self.logs_hyperparameters = True
        self._best: dict[str, Any] = {}  # val_acc, val_loss, epoch and checkpoint of the best epoch so far
        self._final: dict[str, float] = {}
        self._pending: dict[str, float] = {}  # metrics that had not been logged when the checkpoint was written
        self._is_between_epochs = False
        self._start = self._epoch_start = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the settings, the results so far, and the sizes of the logs."""
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
        """Start the clock, and log the metrics that had not been logged when the checkpoint was written."""
        self._start = time.monotonic()
        if self._continues and self._pending:
            for logger in trainer.loggers:
                logger.log_metrics(self._pending, int(self._pending["epoch"]))
                logger.save()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed in the middle."""
        self._epoch_start = time.monotonic()
        if self._continues:
            # otherwise, after a better epoch, Lightning would keep the best checkpoint from which the run resumed
            trainer.ckpt_path = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_start = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record that an epoch has started."""
        self._is_between_epochs = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time that the epoch took."""
        self._is_between_epochs = True
        pl_module.log("time/epoch", time.monotonic() - self._epoch_start)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the epoch's results if its validation accuracy is the highest so far."""
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or "val/acc" not in metrics:
            return
        accuracy = float(metrics["val/acc"])
        if not self._best or accuracy > self._best["val_acc"]:
            loss, epoch = float(metrics["val/loss"]), trainer.current_epoch
            self._best = {"val_acc": accuracy, "val_loss": loss, "epoch": epoch, "checkpoint": ""}

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyper-parameters together with the best and final metrics."""
        self._update(trainer)
        metrics = {f"best/{name}": self._best[name] for name in ("val_acc", "val_loss") if self._best}
        metrics |= {f"final/{_FINAL[name]}": value for name, value in self._final.items()}
        for logger in trainer.loggers if self.logs_hyperparameters else ():
            if "TensorBoardLogger" in base_names(logger) and metrics:
                logger.log_hyperparams(self.hyperparameters, metrics, step=trainer.current_epoch)
                logger.save()

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the highest `val/acc`, counted from 0; None if `val/acc` was not logged."""
        return self._best.get("epoch")

    def text(self, trainer: Trainer) -> str:
        """Return the summary to print after training; its epochs count from 1."""
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
        logger: Any = trainer.logger
        if "TensorBoardLogger" in base_names(logger):
            lines.append(f"  dashboard   tensorboard --logdir {_relative(logger.root_dir)}")
        return "\n".join(lines)

    def _update(self, trainer: Trainer) -> None:
        """Record the latest metrics, and the path of the best checkpoint if it has been written."""
        metrics = trainer.callback_metrics
        self._final |= {name: float(metrics[name]) for name in _FINAL if name in metrics}
        checkpoints: list[Any] = trainer.checkpoint_callbacks
        for callback in checkpoints:
            if (
                "ModelCheckpoint" in base_names(callback)
                and callback.monitor == "val/acc"
                and callback.best_model_score is not None
                and float(callback.best_model_score) == self._best.get("val_acc")
            ):
                self._best["checkpoint"] = callback.best_model_path


def _pending_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that the Trainer will log only after it has written the checkpoint of this epoch."""
    connector = trainer._logger_connector  # no public attribute holds only these metrics
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return metrics | {"epoch": trainer.current_epoch}


def _relative(path: str) -> str:
    """Return a path relative to the current folder if it lies in that folder, otherwise the absolute path."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
