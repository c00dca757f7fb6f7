"""The means of an epoch that is cut off in its middle: Lightning forgets them, and logs those of the rest alone."""

from collections.abc import Iterator
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.distributed import all_gather_object
from torchmetrics import Metric

__all__ = ["RunningMetrics"]


class RunningMetrics(Callback):
    """Keeps in checkpoints written within an epoch what has been logged of it so far, and goes on from there.

    That is every value that is averaged, summed, or of which the highest or lowest is logged, and every metric of
    torchmetrics in the module; under a distributed strategy, those of each process.
    """

    def __init__(self) -> None:
        self._logged: dict[str, dict[str, Any]] = {}
        self._metrics: dict[str, dict[str, Any]] = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what the epoch has come to, if it is not over."""
        started = trainer.fit_loop.epoch_loop.batch_progress.current.ready > 0
        if trainer.state.fn != "fit" or trainer.sanity_checking or trainer.is_last_batch or not started:
            return
        own = {"logged": _logged(trainer), "metrics": _metrics(pl_module)}
        processes: list[Any] = [own]
        if trainer.world_size > 1:
            processes = [None] * trainer.world_size
            all_gather_object(processes, own)
        checkpoint["running_metrics"] = processes

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember what the epoch had come to; another number of processes begins anew."""
        processes = checkpoint.get("running_metrics", [])
        if len(processes) == trainer.world_size:
            own = processes[trainer.global_rank]
            self._logged, self._metrics = dict(own["logged"]), dict(own["metrics"])

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go on with the module's metrics."""
        for name, metric in _modules(pl_module):
            for state, value in self._metrics.get(name, {}).items():
                setattr(metric, state, _to(value, pl_module.device))
        self._metrics = {}

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Go on with what the step has logged: Lightning knows a name once it is logged."""
        self._merge(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Likewise with what was logged at the end of the batch before."""
        self._merge(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What has not been logged again by now never will."""
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


def _logged(trainer: Trainer) -> dict[str, dict[str, Any]]:
    """What `log` has added up, which nothing public tells."""
    results: dict[str, Any] = trainer.fit_loop.epoch_loop._results
    return {
        key: {
            "value": result.value.clone(),
            "count": torch.as_tensor(getattr(result, "cumulated_batch_size", 0)).clone(),
        }
        for key, result in results.items()
        if result.is_tensor and result.meta.on_epoch and not result.has_reset
    }


def _metrics(module: LightningModule) -> dict[str, dict[str, Any]]:
    """The states of the module's metrics that have seen anything."""
    return {
        name: {state: _to(getattr(metric, state), None) for state in metric._defaults} | {"_update_count": count}
        for name, metric in _modules(module)
        if (count := metric._update_count)
    }


def _modules(module: LightningModule) -> Iterator[tuple[str, Metric]]:
    return ((name, child) for name, child in module.named_modules() if isinstance(child, Metric))


def _to(value: Any, device: torch.device | None) -> Any:
    """A copy of a state, which is a tensor or a list of them."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.to(device)
    return [_to(item, device) for item in value] if isinstance(value, list) else value
