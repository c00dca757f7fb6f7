"""Compute metrics over all batches of an interrupted epoch; Lightning would use only the batches after resuming."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.distributed import all_gather_object
from torchmetrics import Metric

from lit_prune.callbacks._base import Callback


class RunningMetrics(Callback):
    """Stores the metrics of an unfinished epoch in checkpoints, and continues them when the run resumes.

    For each process, it stores all logged values that are reduced over the epoch (mean, sum, minimum, maximum), and the
    states of all torchmetrics metrics in the module. If the number of processes has changed, nothing is restored.

        on_load_checkpoint    reads the stored values of this process
        on_train_start        restores the torchmetrics metrics
        on_train_batch_end    merges each stored value into the new value, once the resumed run has logged the metric
        on_train_batch_start  does the same for metrics that later callbacks logged at the end of the previous batch
        on_train_epoch_end    does the same for the last batch, and drops the stored values that are still not merged
    """

    def __init__(self) -> None:
        self._logged: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the metrics of the epoch so far, if the checkpoint is saved in the middle of an epoch."""
        started = trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.is_last_batch or not started:
            return
        own = {"logged": _copy_logged(trainer), "metrics": _copy_metrics(pl_module)}
        processes: list[Any] = [own] * trainer.world_size
        if trainer.world_size > 1:
            all_gather_object(processes, own)
        checkpoint["running_metrics"] = processes

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Read the stored metrics of this process."""
        processes = checkpoint.get("running_metrics", [])
        if len(processes) == trainer.world_size:
            own = processes[trainer.global_rank]
            self._logged, self._metrics = dict(own["logged"]), dict(own["metrics"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the torchmetrics metrics in the module."""
        for name, metric in _metrics_of(pl_module):
            for state, value in self._metrics.get(name, {}).items():
                setattr(metric, state, _copy(value, pl_module.device))
        self._metrics = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Merge stored values into the values that the training step has logged."""
        self._merge(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Merge stored values into the values that other callbacks logged after the previous batch."""
        self._merge(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge stored values a last time; drop the values of metrics that were not logged after resuming."""
        self._merge(trainer)
        self._logged = {}

    def _merge(self, trainer: Trainer) -> None:
        if not self._logged:
            return
        results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
        for key in [key for key in self._logged if key in results and not results[key].has_reset]:
            before, now = self._logged.pop(key), results[key]
            value = before["value"].to(now.value.device)
            if now.meta.is_max_reduction or now.meta.is_min_reduction:
                now.value = now.meta.reduce_fx(value, now.value)
            else:
                now.value = value + now.value
            if now.meta.is_mean_reduction:
                now.cumulated_batch_size = before["count"].to(now.value.device) + now.cumulated_batch_size
            now._computed = None


def _copy_logged(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """Copy the values that `log` has accumulated; Lightning has no public way to read them."""
    results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
    return {
        key: {
            "value": result.value.clone(),
            "count": torch.as_tensor(getattr(result, "cumulated_batch_size", 0)).clone(),
        }
        for key, result in results.items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _copy_metrics(module: LightningModule) -> dict[str, dict[str, Any]]:
    """Copy the states of those torchmetrics metrics in the module that have been updated."""
    return {
        name: {state: _copy(getattr(metric, state), None) for state in metric._defaults} | {"_update_count": count}
        for name, metric in _metrics_of(module)
        if (count := metric._update_count)
    }


def _metrics_of(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, child) for name, child in module.named_modules() if isinstance(child, Metric))


def _copy(value: Any, device: torch.device | None) -> Any:
    """Copy one state of a metric: a tensor, a list of tensors, or the number of updates."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.to(device)
    return [_copy(item, device) for item in value] if isinstance(value, list) else value
