"""Run a copy of the model on training batches, and leave the training itself as it was."""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import deepcopy
from dataclasses import dataclass, replace
from inspect import signature
from itertools import islice
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor, distributed
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader, IterableDataset

from lit_prune.callbacks._checks import is_model_parallel
from lit_prune.errors import InputError, expected, one_line
from lit_prune.functional.calibration import Calibration
from lit_prune.functional.criteria import Score
from lit_prune.functional.selection import WeightRef, find_weight


def check_loss(trainer: Trainer, pl_module: LightningModule, purpose: str, copies: bool = True) -> None:
    """Raise an `InputError` if the loss that `training_step` returns cannot be used.

    Args:
        trainer: Trainer of the model.
        pl_module: The model.
        purpose: What needs the loss, for the message, for example "`recalibrate`".
        copies: Whether the loss is computed on a copy of the model.
    """
    if not pl_module.automatic_optimization:
        hint = f"use automatic optimization, or train without {purpose}"
        raise expected(f"automatic optimization with {purpose}", "manual optimization", hint)
    if copies and is_model_parallel(trainer):
        hint = 'no process has the whole model to copy; use `strategy="ddp"`'
        raise expected(f"a strategy that supports {purpose}", "ModelParallelStrategy", hint)


@contextmanager
def calibrate(trainer: Trainer, pl_module: LightningModule, count: int, seed: int) -> Iterator[Calibration]:
    """Provide a copy of the model, and its loss on the first batches of a new epoch of training data.

    Neither the model, nor the random state, nor the order of the training data change. The loss is what the copy's
    `training_step` returns; what it logs with `self.log` is dropped. In distributed runs, each process takes batches of
    its own share.

    Args:
        trainer: Trainer in `fit`.
        pl_module: The model, in training mode.
        count: Number of batches. A loader with fewer batches is started again.
        seed: Random seed of the order of the data, of its augmentation, and of dropout.

    Raises:
        InputError: If the model or the loader cannot be copied.
    """
    module = _copy("model", pl_module, {id(trainer): trainer})
    module.trainer = trainer
    compute = make_loss_function(module)
    precision = trainer.precision_plugin
    # in float16, gradients underflow unless the loss is scaled
    context = precision.train_step_context if getattr(precision, "scaler", None) is None else nullcontext

    def loss(batch: Any, index: int) -> Tensor | None:
        with context():
            return compute(batch, index)

    # compiling the copy would take minutes, and compiled code has no second derivatives
    with isolated(pl_module.device), torch.compiler.set_stance("force_eager"), torch.enable_grad():
        yield Calibration(module, _Batches(trainer, module, count, seed), loss)


def make_loss_function(module: Any) -> Callable[[Any, int], Tensor | None]:
    """Return a function of a batch and its index that returns the loss of `training_step`, if there is one.

    From now on, the module drops what it logs with `self.log` and `self.log_dict`.
    """
    module.log = module.log_dict = lambda *_, **__: None
    parameters = signature(module.training_step).parameters.values()
    numbered = len(parameters) > 1 or any(one.kind is one.VAR_POSITIONAL for one in parameters)

    def loss(batch: Any, index: int) -> Tensor | None:
        output = module.training_step(batch, index) if numbered else module.training_step(batch)
        value: Tensor | None = output["loss"] if isinstance(output, Mapping) else output
        return value

    return loss


def seed_all(seed: int) -> None:
    """Seed the global random states of Python, NumPy and torch."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - transforms and worker functions of others use the global state
    torch.manual_seed(seed)


def measure(
    trainer: Trainer, pl_module: LightningModule, criterion: Any, weights: Sequence[WeightRef], seed: int
) -> Score:
    """Measure the scores of a criterion, and return a function that gives every process those of the first process."""
    criterion = deepcopy(criterion)  # a copy, so that the scores are not kept after pruning
    with calibrate(trainer, pl_module, criterion.batches, seed) as calibration:
        copies = [find_weight(calibration.model, ref.name) for ref in weights]
        criterion.measure([ref.tensor for ref in copies if ref is not None], calibration)
    return lambda tensors: (_of_first_process(scores) for scores in criterion(tensors))


@torch.no_grad()
def recalibrate(trainer: Trainer, pl_module: LightningModule, count: int, seed: int) -> None:
    """Estimate the running statistics of batch norms again, as averages over batches of training data.

    Norms that are in evaluation mode, or do not update their statistics, are left as they are. Other state of the
    model does not change.

    Args:
        trainer: Trainer in `fit`.
        pl_module: The model, in training mode.
        count: Number of batches.
        seed: Random seed, as in `calibrate`.
    """
    if not any(isinstance(module, _BatchNorm) and module.training for module in pl_module.modules()):
        return
    with calibrate(trainer, pl_module, count, seed) as calibration:
        norms = {name: norm for name, norm in calibration.model.named_modules() if isinstance(norm, _BatchNorm)}
        norms = {name: norm for name, norm in norms.items() if norm.training and norm.num_batches_tracked is not None}
        for norm in norms.values():
            norm.momentum = None  # a cumulative average; its first batch replaces the old statistics
            norm.num_batches_tracked.zero_()  # type: ignore[union-attr]
        for index, batch in enumerate(calibration.batches):
            with torch.no_grad():
                calibration.loss(batch, index)
    for name, norm in norms.items():
        if norm.num_batches_tracked:
            for key in ("running_mean", "running_var"):
                pl_module.get_submodule(name).get_buffer(key).copy_(_of_first_process(norm.get_buffer(key)))


@contextmanager
def isolated(device: torch.device) -> Iterator[None]:
    """Restore the random states of torch, NumPy and Python afterwards."""
    gpus = [device] if device.type == "cuda" else []
    with isolate_rng(include_cuda=False), torch.random.fork_rng(gpus):
        yield


@dataclass(frozen=True)
class _Batches:
    """The first batches of new epochs of training data; each iteration gives the same ones."""

    trainer: Trainer
    module: LightningModule
    count: int
    seed: int

    def __iter__(self) -> Iterator[Any]:
        seed_all(self.seed)
        loader, taken = _fresh(self.trainer.fit_loop._combined_loader), 0
        try:
            while taken < self.count:
                before = taken
                for batch, *_ in islice(loader, self.count - taken):
                    taken += 1
                    yield self._move(batch)
                if taken == before:
                    return
        finally:
            loader.reset()  # ends worker processes

    def _move(self, batch: Any) -> Any:
        """Do to a batch what the Trainer does, with the hooks of the copied model."""
        selector: Any = self.trainer._data_connector._datahook_selector
        hooks = replace(selector, model=self.module)
        batch = self.trainer.precision_plugin.convert_input(batch)
        for name, *device in (
            ("on_before_batch_transfer",),
            ("transfer_batch_to_device", self.module.device),
            ("on_after_batch_transfer",),
        ):
            batch = getattr(hooks.get_instance(name), name)(batch, *device, 0)
        return batch


def _fresh(combined: Any) -> Any:
    """Copy the Trainer's loader without its running iterators; map-style data sets are shared, not copied."""
    shared: dict[int, Any] = {id(combined._iterator): None}
    for loader in combined.flattened:
        if isinstance(loader, DataLoader):
            shared[id(loader._iterator)] = None
            if not isinstance(loader.dataset, IterableDataset):
                shared[id(loader.dataset)] = loader.dataset
    return _copy("training data", combined, shared)


def _copy(what: str, value: Any, shared: dict[int, Any]) -> Any:
    try:
        return deepcopy(value, shared)
    except Exception as error:
        users = "`recalibrate` and criteria that need data work on a copy"
        raise InputError(f"The {what} cannot be copied, but {users}: {one_line(error)}.") from error


def _of_first_process(values: Tensor) -> Tensor:
    if distributed.is_available() and distributed.is_initialized():
        values = values.detach().clone(memory_format=torch.contiguous_format)
        distributed.broadcast(values, 0)
    return values
