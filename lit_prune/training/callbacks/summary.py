"""The summary printed after training, and the run's entry in TensorBoard's HParams tab."""

import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import base_names
from lit_prune.files.checkpoint import FORMAT, KEY, Settings
from lit_prune.training.loggers import EPOCH_TIME, is_own, merge_next_rows, sync_logs
from lit_prune.training.packages import has_test

_FINAL = ("train/loss", "train/acc", "val/loss", "val/acc", "sparsity/global")
# metrics in the HParams tab, which shows the last value of each curve; a study adds its test metrics
_COMPARED = ("test/acc", "test/loss", "val/best_acc", "val/best_loss", *_FINAL)


class RunSummary(Callback):
    """Summarizes training, stores the settings in every checkpoint, and fills TensorBoard's HParams tab.

    Logged each epoch: `time/epoch`, the wall-clock time of the epoch in seconds, including validation.
    Logged when `fit` ends: `val/best_acc`, a fraction, and `val/best_loss`, from the epoch with the highest `val/acc`.
    TensorBoard shows them at the last epoch. Hyper-parameters are logged to TensorBoard when `fit` ends, and to other
    loggers, except our CSV logger, when it starts.

    `lit_prune.training.resuming` lists the entries that this callback adds to checkpoints.

    Args:
        settings: Settings to store in checkpoints, as `collect_settings` returns them.
        hyperparameters: Hyper-parameters to log, by name.
        limits: Options that end the training, to store in checkpoints, as `training_limits` returns them.
        test: Path of the last checkpoint, and the command that tests a checkpoint, without `--ckpt_path`, to print
            after training. The command is None if there is none to print.
        continues: Whether the run resumes in the folder of its checkpoint, rather than in a new folder.

    Attributes:
        hyperparameters: The hyper-parameters.
        logs_hyperparameters: Whether to log them when `fit` ends.
    """

    def __init__(
        self,
        settings: Settings,
        hyperparameters: Mapping[str, bool | int | float | str],
        limits: Mapping[str, int | str | None],
        test: tuple[Path, str | None],
        continues: bool = False,
    ) -> None:
        self._settings = settings
        self._limits = dict(limits)
        self._continues = continues
        self._last, self._test = test
        self.hyperparameters = dict(hyperparameters)
        self.logs_hyperparameters = True
        self._best: dict[str, Any] = {}  # val_acc, val_loss, epoch and checkpoint of the best epoch so far
        self._final: dict[str, float] = {}
        self._pending: dict[str, float] = {}  # metrics that had not been logged when the checkpoint was written
        self._unwritten: dict[str, float] | None = None  # row of metrics.csv
        self._is_between_epochs = False
        self._start = self._epoch_start = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the settings, the results so far, and the sizes of the logs."""
        self._update(trainer)
        names = [type(callback).__name__ for callback in trainer.callbacks]  # type: ignore[attr-defined]
        checkpoint[KEY] = {
            "format": FORMAT,
            "settings": self._settings,
            **self._limits,
            "best": dict(self._best),
            "final": dict(self._final),
            "callbacks": names,
            "logs": sync_logs(trainer.loggers),
            "pending": _pending_metrics(trainer) if self._is_between_epochs else self._pending,
        }

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Restore the results so far."""
        stored = checkpoint.get(KEY, {})
        self._best, self._final, self._pending = (dict(stored.get(key, {})) for key in ("best", "final", "pending"))
        self._unwritten = stored.get("logs", {}).get("unwritten")

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock, and log the metrics that had not been logged when the checkpoint was written."""
        self._start = time.monotonic()
        merge_next_rows(trainer.loggers, self._unwritten if self._continues else None)
        if self._continues and self._pending:
            for logger in trainer.loggers:
                logger.log_metrics(self._pending, int(self._pending["epoch"]))
                logger.save()
        self._pending = {}
        for logger in trainer.loggers:
            if not is_own(logger) and "TensorBoardLogger" not in base_names(logger):
                logger.log_hyperparams(self.hyperparameters)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of an epoch that is resumed in the middle."""
        self._epoch_start = time.monotonic()
        if self._continues:
            # otherwise, if the run resumed from its best checkpoint, Lightning would never remove that file
            trainer.ckpt_path = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of the epoch."""
        self._epoch_start = time.monotonic()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Record that an epoch has started."""
        self._is_between_epochs = False

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the time that the epoch took; record its results if its last validation accuracy is the highest so far.

        `ModelCheckpoint` compares the same accuracies, even if there are several validations in an epoch.
        """
        self._is_between_epochs = True
        pl_module.log(EPOCH_TIME, time.monotonic() - self._epoch_start, reduce_fx="max", sync_dist=True)
        metrics = trainer.callback_metrics
        if "val/acc" not in metrics:
            return
        accuracy = float(metrics["val/acc"])
        if not self._best or accuracy > self._best["val_acc"]:
            loss, epoch = float(metrics["val/loss"]), trainer.current_epoch
            self._best = {"val_acc": accuracy, "val_loss": loss, "epoch": epoch, "checkpoint": ""}

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyper-parameters, and the metrics of the best epoch."""
        if self.logs_hyperparameters:
            self.log_hyperparameters(trainer)

    @rank_zero_only
    def log_hyperparameters(self, trainer: Trainer) -> None:
        """Log the hyper-parameters to TensorBoard, and the metrics of the best epoch to all but our CSV logger."""
        from torch.utils.tensorboard.summary import hparams  # imported late, because it is slow to import

        self._update(trainer)
        best = {f"val/best_{name}": self._best[f"val_{name}"] for name in ("acc", "loss") if self._best}
        loggers: list[Any] = trainer.loggers
        for logger in loggers:
            is_tensorboard = "TensorBoardLogger" in base_names(logger)
            if is_tensorboard:
                # not `log_hyperparams`, which would add a point to each curve
                writer = logger.experiment._get_file_writer()
                for summary in hparams(self.hyperparameters, dict.fromkeys(_COMPARED, 0)):  # type: ignore[no-untyped-call]
                    writer.add_summary(summary)
            if best and (is_tensorboard or not is_own(logger)):
                logger.log_metrics(
                    best, max(trainer.current_epoch - 1, 0) if is_own(logger) else max(trainer.global_step - 1, 0)
                )
            logger.save()

    @property
    def best_epoch(self) -> int | None:
        """Epoch with the highest `val/acc`, counted from 0; None if `val/acc` was not logged."""
        return self._best.get("epoch")

    def text(self, trainer: Trainer) -> str:
        """Return the summary to print after training."""
        seconds = time.monotonic() - self._start
        lines = [f"Trained {format_epochs(trainer)} in {seconds:.0f} s."]
        if best := self._best:
            scores = f"val/acc {best['val_acc']:.4f}, val/loss {best['val_loss']:.4f}"
            lines.append(f"  best        {scores} (epoch {best['epoch']})")
        if self._final:
            lines.append("  final       " + ", ".join(f"{name} {value:.4f}" for name, value in self._final.items()))
        if best and best["checkpoint"]:
            lines.append(f"  checkpoint  {_relative(best['checkpoint'])}")
        last = next((path for path in (best.get("checkpoint"), self._last) if path and Path(path).is_file()), None)
        if self._test is not None and last is not None and has_test(trainer):
            lines.append(f"  test        {self._test} --ckpt_path {shlex.quote(_relative(str(last)))}")
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


def format_epochs(trainer: Trainer) -> str:
    """Return how many epochs are finished, such as "2 of 3 epochs"."""
    finished, limit = trainer.current_epoch, trainer.max_epochs or -1
    return f"{finished} of {limit} epochs" if limit > 0 else f"{finished} epoch{'s' * (finished != 1)}"


def _pending_metrics(trainer: Trainer) -> dict[str, float]:
    """Return the metrics that the Trainer will log only after it has written the checkpoint of this epoch."""
    connector = trainer._logger_connector  # no public attribute holds only these metrics
    metrics = {name: float(value) for name, value in connector.metrics["log"].items()}
    return metrics | {"epoch": trainer.current_epoch}


def _relative(path: str) -> str:
    """Return a path relative to the current folder if it lies in that folder, otherwise the absolute path."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
