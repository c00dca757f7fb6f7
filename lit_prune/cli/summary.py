"""The end of a training: what came out, where it is, and the HParams entry that compares runs."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

__all__ = ["RunSummary"]


class RunSummary(Callback):
    """Prints a few lines when `fit` ends and fills TensorBoard's HParams tab.

    Logged once, at the end: `best/val_acc`, `best/val_loss`, `final/train_loss`, `final/train_acc`,
    `final/val_loss`, `final/val_acc` (accuracies are fractions; the best epoch is the one of highest `val/acc`),
    beside the hyper-parameters. They have names of their own because HParams writes its metrics as scalars: under
    the name of a curve they would add a false point to it.

    Args:
        hyperparameters: Flat names and plain values, the same names in all runs.
    """

    def __init__(self, hyperparameters: Mapping[str, bool | int | float | str]) -> None:
        self._hyperparameters = dict(hyperparameters)
        self._best: dict[str, float] = {}
        self._began = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Keep the best epoch, so that a resumed run still knows it."""
        return {"best": self._best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from the best epoch so far."""
        self._best = dict(state_dict["best"])

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._began = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare this epoch with the best one."""
        metrics = trainer.callback_metrics
        if trainer.sanity_checking or "val/acc" not in metrics:
            return
        accuracy = float(metrics["val/acc"])
        if not self._best or accuracy > self._best["val_acc"]:
            self._best = {
                "val_acc": accuracy,
                "val_loss": float(metrics["val/loss"]),
                "epoch": trainer.current_epoch,
            }

    @rank_zero_only
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the hyper-parameters with their real metrics, and print the summary."""
        names = ("train/loss", "train/acc", "val/loss", "val/acc")
        final = {n: float(trainer.callback_metrics[n]) for n in names if n in trainer.callback_metrics}
        metrics = {f"best/{name}": value for name, value in self._best.items() if name != "epoch"}
        metrics |= {f"final/{name.replace('/', '_')}": value for name, value in final.items()}
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and metrics:
                logger.log_hyperparams(self._hyperparameters, metrics, step=trainer.current_epoch)
                logger.save()
        self._print(trainer, final)

    def _print(self, trainer: Trainer, final: Mapping[str, float]) -> None:
        seconds = time.monotonic() - self._began
        print(f"\nTrained to epoch {trainer.current_epoch} of {trainer.max_epochs} in {seconds:.0f} s.")
        if self._best:
            best = self._best
            print(
                f"  best        val/acc {best['val_acc']:.4f}, val/loss {best['val_loss']:.4f} (epoch {best['epoch']:.0f})"
            )
        if final:
            print("  final       " + ", ".join(f"{name} {value:.4f}" for name, value in final.items()))
        if isinstance(trainer.checkpoint_callback, ModelCheckpoint):
            path = trainer.checkpoint_callback.best_model_path
            if path:
                print(f"  checkpoint  {_near(path)}")
        if isinstance(trainer.logger, TensorBoardLogger):
            print(f"  dashboard   tensorboard --logdir {_near(trainer.logger.root_dir)}")


def _near(path: str) -> str:
    """A path as a person at this folder would type it."""
    absolute = Path(path).absolute()
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
