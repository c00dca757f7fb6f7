"""Hold masks during `fit`, and give them to averaged copies of the model."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel
from torch.utils.hooks import RemovableHandle

from lit_prune.callbacks._checks import base_names, callbacks_of
from lit_prune.functional.averages import averaged_copies
from lit_prune.functional.masking import copy_masks, mask_gradients, mask_weights
from lit_prune.functional.optimizer_state import keeps_zeros


class MaskHolder(Callback):
    """Keeps masked weights at zero during `fit`; the callbacks that mask weights add it to their trainer.

    It is a callback of its own, so that a subclass of `Pruning` may override any hook. Gradients are masked before they
    are clipped. Weights are masked after each step of an optimizer that could move them, and before each batch,
    validation and checkpoint, in case a hook of the module or of another callback has written to them.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    @classmethod
    def add_to(cls, trainer: Trainer) -> None:
        """Make a trainer hold masks until its `fit` ends, before the same hooks of its other callbacks."""
        if not any(isinstance(callback, cls) for callback in callbacks_of(trainer)):
            # a new list, since the trainer may be calling the callbacks in the old one
            trainer.callbacks = [cls(), *callbacks_of(trainer)]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Watch the optimizers."""
        self._release()
        for optimizer in trainer.optimizers:
            # without automatic optimization, steps of the raw optimizer do not call `on_before_optimizer_step`
            if not pl_module.automatic_optimization:
                self._handles.append(optimizer.register_step_pre_hook(lambda it, *_: mask_gradients(pl_module, it)))
            if not keeps_zeros(optimizer):
                self._handles.append(optimizer.register_step_post_hook(lambda it, *_: mask_weights(pl_module, it)))

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Set the gradients of masked weights to zero."""
        mask_gradients(pl_module, optimizer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set masked weights to zero, in case a hook has written to them."""
        mask_weights(pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set masked weights to zero, in case a hook has written to them."""
        mask_weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set masked weights to zero before checkpoints are written."""
        mask_weights(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stop to watch the optimizers, and leave the trainer."""
        self._release()
        trainer.callbacks = [callback for callback in callbacks_of(trainer) if callback is not self]  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop to watch the optimizers, and leave the trainer."""
        self.teardown(trainer, pl_module, "fit")

    def _release(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []


def mask_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Mask averages of the model like the model, those of other callbacks and those inside it."""
    for average in _averages_of(trainer):
        copy_masks(pl_module, average)
    for average, source in averaged_copies(pl_module):
        copy_masks(source, average)


def _averages_of(trainer: Trainer) -> Iterator[nn.Module]:
    for callback in callbacks_of(trainer):
        for value in vars(callback).values():
            if isinstance(value, AveragedModel):
                yield value.module
            elif isinstance(value, nn.Module) and "StochasticWeightAveraging" in base_names(callback):
                yield value
