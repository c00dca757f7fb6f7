"""What a command shows while it runs: in training, one bar for all epochs, and a line after each epoch."""

import math
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torchmetrics import Metric
from tqdm import tqdm

# patterns for the names of the metrics in an epoch's line, in the order of the line; the third is for names in the
# user's own module, such as "loss"
_SHOWN = ("train", "val", "(?!train|val|lr)[^/]*$", "sparsity/global$")
# shortest time between two changes of the bar; showing a loss waits for the GPU, which would slow down every step
_SECONDS = 0.1


class Progress:
    """Shows one bar for the whole training, if there is a terminal, and prints a line after each epoch.

    The line has the epoch's metrics of `train`, `val` and `sparsity/global`, and the time left for all epochs.

    `derive` adds a second base class, the `TQDMProgressBar` of a Lightning package.

    Args:
        folder: Run folder, to print when training starts; None if there is none.
    """

    trainer: Trainer
    train_progress_bar: Any

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__()
        self._folder = folder
        self._began = self._drawn = 0.0
        self._loss: dict[str, float] = {}
        self._first = self._done = 0  # number of batches when this training started, and now
        self._has_ended = self._was_validated = False  # about the current epoch

    @property
    def is_enabled(self) -> bool:
        """Whether to draw bars: only in a terminal; elsewhere, each update of a bar would be a line of its own."""
        return bool(super().is_enabled) and sys.stdout.isatty()  # type: ignore[misc]

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Return what to show next to the bar: the loss and logged metrics, without the version of the logger."""
        metrics: dict[str, Any] = super().get_metrics(trainer, pl_module)  # type: ignore[misc]
        return self._loss | {name: value for name, value in metrics.items() if name != "v_num"}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print which epochs follow and where the run folder is, and open the bar."""
        self._began = time.monotonic()
        self._first = self._done = trainer.fit_loop.total_batch_idx + 1
        first, limit, batches = trainer.current_epoch, trainer.max_epochs or -1, trainer.num_training_batches
        epochs = f"epochs {first} to {limit - 1}" if limit > 0 else f"from epoch {first} on"
        self._print(f"Training {epochs}, {batches} batches each" + (f", in {self._folder}" if self._folder else ""))
        super().on_train_start(trainer, pl_module)  # type: ignore[misc]
        bar = self.train_progress_bar
        bar.total, bar.initial, bar.n = self._total(), self._first, self._first
        bar.set_description(f"Epoch {first}")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the previous epoch, whose last metrics are known only now."""
        self._print_epoch()
        self.train_progress_bar.set_description(f"Epoch {trainer.current_epoch}")

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Move the bar, and show the loss of the batch."""
        self._done, bar, now = trainer.fit_loop.total_batch_idx + 1, self.train_progress_bar, time.monotonic()
        is_due = now - self._drawn >= _SECONDS or self._done == bar.total
        if is_due and self._should_update(self._done, bar.total):  # type: ignore[attr-defined]
            bar.n, self._drawn = self._done, now
            if isinstance(outputs, Mapping) and isinstance(loss := outputs.get("loss"), Tensor):
                # Lightning has divided the loss by the number of batches whose gradients are accumulated
                self._loss = {"loss": float(loss) * trainer.accumulate_grad_batches}
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the epoch has validation metrics."""
        super().on_validation_end(trainer, pl_module)  # type: ignore[misc]
        self._was_validated = not trainer.sanity_checking

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record that the epoch is finished, unless it was resumed at its end, as may happen with `max_steps`."""
        self._has_ended = self._done > self._first

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Print the line of the last epoch, and close the bar."""
        self._print_epoch()
        super().on_train_end(trainer, pl_module)  # type: ignore[misc]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bars, so that the error is printed on a line of its own."""
        for bar in vars(self).values():
            if isinstance(bar, tqdm):
                bar.close()

    def _print_epoch(self) -> None:
        if self._has_ended:
            names = [name for name in self.trainer.callback_metrics if not name.endswith("_step")]
            shown = [name for pattern in _SHOWN for name in sorted(names) if re.match(pattern, name)]
            shown = [name for name in shown if self._was_validated or not name.startswith("val")]
            texts = [f"{name} {float(self.trainer.callback_metrics[name]):.4f}" for name in shown]
            line = ", ".join([*texts, *self._time_left()])
            self._print(f"epoch {self.trainer.current_epoch - 1}" + (f": {line}" if line else ""))
        self._has_ended = self._was_validated = False

    def _time_left(self) -> list[str]:
        """Return the time that the remaining batches will take; an empty list if it is not known, or none remain."""
        total, done = self._total(), self._done - self._first
        if total is None or done == 0 or self._done >= total:
            return []
        return [f"{tqdm.format_interval((time.monotonic() - self._began) / done * (total - self._done))} left"]

    def _total(self) -> int | None:
        """Return the number of batches of the whole training; None if it is not known."""
        trainer = self.trainer
        epochs, steps = trainer.max_epochs or -1, trainer.max_steps
        limits = [epochs * trainer.num_training_batches] if epochs > 0 else []
        limits += [steps * trainer.accumulate_grad_batches] if steps > 0 else []
        total = min(limits, default=math.inf)
        return int(total) if math.isfinite(total) else None

    def _print(self, line: str) -> None:
        if self.trainer.is_global_zero:
            tqdm.write(line)  # above the bars
            sys.stdout.flush()


class LayerSummary:
    """The summary of the model, without its torchmetrics metrics, which have no weights.

    `derive` adds a second base class, the `ModelSummary` of a Lightning package.
    """

    def _summary(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        summary = super()._summary(trainer, pl_module)  # type: ignore[misc]
        layers = summary._layer_summary
        for name in [name for name, layer in layers.items() if isinstance(layer._module, Metric)]:
            del layers[name]
        return summary
