"""Keep masked weights at zero during `fit`, in the model and in averages of it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import base_names, callbacks_of, overrides
from lit_prune.callbacks._wrapping import Wrapped
from lit_prune.functional.averages import find_averages
from lit_prune.functional.masking import copy_masks, mask_gradients, mask_weights
from lit_prune.functional.optimizer_state import keeps_zeros
from lit_prune.functional.sharding import local
from lit_prune.functional.step_hooks import before_step, hookable


class MaskHolder(Callback):
    """Keeps masked weights at zero during `fit`; callbacks that freeze, prune or monitor add it to their trainer.

    This is a separate callback, so that a subclass of `Pruning` may override any hook. The gradients of masked weights
    are set to zero before clipping. The weights are set to zero after each step, if the optimizer may have moved them.
    A hook may also have written to them, so they are set to zero right before each training step, validation and
    checkpoint, too:

        on_train_batch_start  training_step  backward  on_before_optimizer_step  clip  step  on_train_batch_end  save
                             ^                        ^                                    ^                    ^
                             weights                  gradients                            weights              weights
    """

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []

    @classmethod
    def add_to(cls, trainer: Trainer) -> None:
        """Add a `MaskHolder` until `fit` ends, unless there is one; its hooks run before those of other callbacks."""
        if not any(isinstance(callback, cls) for callback in callbacks_of(trainer)):
            # a new list, since the trainer may be iterating over the old one
            trainer.callbacks = [cls(), *callbacks_of(trainer)]  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Register hooks with the optimizers, and wrap the strategy's methods that run after all hooks of callbacks."""
        self._release()
        for optimizer in trainer.optimizers:
            # in manual optimization, an optimizer without Lightning's wrapper does not call `on_before_optimizer_step`
            if not pl_module.automatic_optimization:
                gradients, weights = (partial(mask, pl_module, optimizer) for mask in (mask_gradients, mask_weights))
                self._undo.append(before_step(optimizer, gradients, weights).remove)
            # custom gradient clipping may make the gradients of masked weights non-zero again
            if not keeps_zeros(optimizer) or overrides(pl_module, "configure_gradient_clipping"):
                handle = hookable(optimizer).register_step_post_hook(lambda it, *_: mask_weights(pl_module, it))
                self._undo.append(handle.remove)
        # the module's `on_train_batch_start` may write to weights, and no callback hook runs between it and the
        # training step
        self._call_before(trainer, "training_step", lambda: mask_weights(pl_module))
        self._call_before(trainer, "lightning_module_state_dict", lambda: _mask_all(trainer, pl_module))

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In manual optimization, set the gradients of masked weights to zero before the module uses them."""
        if not pl_module.automatic_optimization:
            mask_gradients(pl_module)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """In automatic optimization, show the gradients to callbacks, then set those of masked weights to zero."""
        if pl_module.automatic_optimization:
            for callback in callbacks_of(trainer):
                if hasattr(callback, "on_dense_gradients"):
                    callback.on_dense_gradients(trainer, pl_module, optimizer)
            mask_gradients(pl_module, optimizer)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set masked weights to zero, in case a hook has written to them."""
        mask_weights(pl_module)

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Set masked weights to zero, in case another callback has just replaced all weights by averages."""
        if batch_idx == 0:
            mask_weights(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Set masked weights to zero, in case a hook has written to them."""
        mask_weights(pl_module)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Set masked weights to zero, in case a callback wrote to them at the end; remove this callback."""
        if self._undo:  # `fit` has started
            _mask_all(trainer, pl_module)
        self._release()
        trainer.callbacks = [callback for callback in callbacks_of(trainer) if callback is not self]  # type: ignore[attr-defined]

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same as `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def _call_before(self, trainer: Trainer, method: str, action: Callable[[], None]) -> None:
        def call(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            action()
            return original(*args, **kwargs)

        self._undo.append(Wrapped(trainer.strategy, method, call).remove)

    def _release(self) -> None:
        for undo in self._undo:
            undo()
        self._undo = []


def gradient_scale(trainer: Trainer, optimizer: Optimizer) -> float | None:
    """Return the factor that a gradient scaler (float16) leaves in gradients; None if it will skip the step."""
    scaler = getattr(trainer.precision_plugin, "scaler", None)
    if scaler is None:
        return 1.0
    gradients = [parameter.grad for group in optimizer.param_groups for parameter in group["params"]]
    if not all(local(gradient).isfinite().all() for gradient in gradients if gradient is not None):
        return None
    # fused optimizers undo the scaling themselves, later
    scale: float = scaler.get_scale() if getattr(optimizer, "_step_supports_amp_scaling", False) else 1.0
    return scale


def mask_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Apply the model's masks to its averages, which other callbacks or the model itself may hold."""
    for average, source in find_averages(pl_module, [average for average, _ in _averages_of(trainer)]):
        copy_masks(source, average)


def restart_averages(trainer: Trainer, pl_module: LightningModule) -> None:
    """Reset the averages kept by other callbacks to the rewound model; averages inside it were rewound with it."""
    counts = dict(_averages_of(trainer))
    for average, source in find_averages(pl_module, list(counts)):
        if average in counts:
            average.load_state_dict(source.state_dict())
            if (count := counts[average]) is not None:
                count.zero_()  # the next update copies the model


def _mask_all(trainer: Trainer, pl_module: LightningModule) -> None:
    mask_weights(pl_module)
    for average, _ in _averages_of(trainer):
        mask_weights(average)


def _averages_of(trainer: Trainer) -> Iterator[tuple[nn.Module, Tensor | None]]:
    """Yield the averages kept by other callbacks, each with the number of models averaged so far."""
    for callback in callbacks_of(trainer):
        for value in vars(callback).values():
            if isinstance(value, AveragedModel):
                yield value.module, value.n_averaged
            elif isinstance(value, nn.Module) and "StochasticWeightAveraging" in base_names(callback):
                yield value, callback.n_averaged  # type: ignore[attr-defined]
