"""Freeze parts of a model during training."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import (
    base_names,
    callbacks_of,
    check_epoch,
    check_names,
    overrides,
    refuse_sharded_parameters,
)
from lit_prune.errors import expected
from lit_prune.functional.freezing import Frozen, check_selection, modules_to_freeze

# key of a checkpoint that lists the frozen modules
FROZEN_KEY = "lit_prune_frozen"


class LayerFreezing(Callback):
    """Freeze the first layers of a model, or layers by name, during `fit` or until an epoch.

    Frozen parameters and the running statistics of frozen norms do not change at all. Frozen norms and dropouts compute
    as in evaluation mode. Gradient clipping ignores frozen parameters. With `unfreeze_epoch`, their gradients are
    computed, but set to None before each optimizer step. A resumed run is bit-identical to an uninterrupted one.
    Nothing is logged; checkpoints list the frozen modules under "lit_prune_frozen". See `docs/callbacks.md`.

    Weight averaging also averages frozen parameters. Their average is exact with torch's `multi_avg_fn`s, but has
    rounding errors with `get_ema_avg_fn`, which Lightning's `EMAWeightAveraging` uses.

    Args:
        fraction: Fraction of the model to freeze, in (0, 1]: the first `ceil(fraction * L)` of the L convolutions and
            linear layers, in the order of registration. Give either `fraction` or `layers`.
        layers: Globs on qualified names of modules to freeze, for example "backbone.layer1", with everything in them.
        by: Meaning of `fraction`: "layers", or "parameters" for the fewest first layers that hold at least this
            fraction of all weights.
        freeze_norm: Whether to freeze norms and dropouts of `torch.nn`: with `fraction`, those registered before the
            first weight layer that stays trainable; with `layers`, those that match.
        unfreeze_epoch: First epoch, counted from 0, in which the frozen layers train. None never unfreezes.

    Raises:
        InputError: At construction, if an argument cannot be used. In `setup`: if a pattern matches nothing, if nothing
            is left to train, under strategies that shard parameters, and together with `StochasticWeightAveraging` if
            batch norms are frozen, because it resets their statistics.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=LayerFreezing(fraction=0.3, unfreeze_epoch=5), logger=False)
    """

    def __init__(
        self,
        fraction: float | None = None,
        layers: list[str] | str | None = None,
        by: str = "layers",
        freeze_norm: bool = True,
        unfreeze_epoch: int | None = None,
    ) -> None:
        check_selection(fraction, layers, by)
        check_names("layers", layers)
        if unfreeze_epoch is not None:
            check_epoch("unfreeze_epoch", unfreeze_epoch)
        self.fraction = fraction
        self.layers = layers
        self.by = by
        self.freeze_norm = freeze_norm
        self.unfreeze_epoch = unfreeze_epoch
        self._frozen: Frozen | None = None
        self._names: list[str] = []
        self._handles: list[RemovableHandle] = []
        self._unhook: Callable[[], None] | None = None

    @property
    def state_key(self) -> str:
        """Key in the checkpoint, different for each `LayerFreezing` of a trainer."""
        return self._generate_state_key(
            fraction=self.fraction,
            layers=self.layers,
            by=self.by,
            freeze_norm=self.freeze_norm,
            unfreeze_epoch=self.unfreeze_epoch,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze as soon as layers exist, before DDP and optimizers look at parameters."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        self._release()
        self._names = []
        # this runs before the hooks of the module, which may create layers
        hook = next((hook for hook in ("configure_model", "setup") if overrides(pl_module, hook)), None)
        if hook is None:
            self._freeze(trainer, pl_module)
        else:
            self._unhook = _HookThenActions.add(pl_module, hook, lambda: self._freeze(trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze again, because a strategy may have replaced modules by synchronised batch norms."""
        self._release()
        self._freeze(trainer, pl_module)
        # `on_before_optimizer_step` is not called in manual optimization with the raw optimizer
        self._handles = [optimizer.register_step_pre_hook(self._before_step) for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze if a resumed run starts in `unfreeze_epoch` or later."""
        self._reconcile(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze if this is `unfreeze_epoch`."""
        self._reconcile(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Unfreeze if a resumed run has skipped the start of `unfreeze_epoch`."""
        self._reconcile(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Set the gradients of frozen parameters to None, before gradients are clipped."""
        self._before_step()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the names of the modules that are frozen, or were frozen when training finished."""
        # outside the callback states: Lightning warns if the Trainer lacks a callback whose state is in the checkpoint
        checkpoint[FROZEN_KEY] = sorted({*checkpoint.get(FROZEN_KEY, []), *self._names})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unfreeze the module."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unfreeze the module."""
        self._release()

    def _freeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named = modules_to_freeze(pl_module, self.fraction, self.layers, self.by, self.freeze_norm)
        modules = [module for _, module in named]
        averages = any("StochasticWeightAveraging" in base_names(callback) for callback in callbacks_of(trainer))
        if averages and any(getattr(module, "running_mean", None) is not None for module in modules):
            raise expected(
                "no StochasticWeightAveraging together with frozen batch norms",
                "both",
                "it resets their statistics; use WeightAveraging, or `freeze_norm=False`",
            )
        if self._frozen is not None:
            self._frozen.thaw()
        self._frozen = Frozen(modules, keep_backward=self.unfreeze_epoch is not None)
        self._names = [name for name, _ in named]
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise expected(
                "at least one parameter to train",
                f"every parameter of {type(pl_module).__name__} frozen",
                "freeze fewer layers, or give an `unfreeze_epoch`",
            )

    def _reconcile(self, trainer: Trainer) -> None:
        if self.unfreeze_epoch is not None and trainer.current_epoch >= self.unfreeze_epoch:
            self._release()
            self._names = []

    def _before_step(self, *_: Any) -> None:
        if self._frozen is not None:
            self._frozen.drop_gradients()

    def _release(self) -> None:
        if self._unhook is not None:
            self._unhook()
        for handle in self._handles:
            handle.remove()
        if self._frozen is not None:
            self._frozen.thaw()
        self._unhook, self._handles, self._frozen = None, [], None


class _HookThenActions:
    """Replacement of a module's hook that also runs actions of callbacks after each call."""

    def __init__(self, module: nn.Module, hook: str) -> None:
        self.actions: list[Callable[[], None]] = []
        self._module, self._hook = module, hook
        self._original = getattr(module, hook)
        update_wrapper(self, self._original)

    @classmethod
    def add(cls, module: nn.Module, hook: str, action: Callable[[], None]) -> Callable[[], None]:
        """Run an action after each call of a hook, until the returned function is called."""
        replacement = vars(module).get(hook)
        if not isinstance(replacement, cls):
            replacement = cls(module, hook)
            setattr(module, hook, replacement)
        replacement.actions.append(action)
        return lambda: replacement.remove(action)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._original(*args, **kwargs)
        for action in self.actions:
            action()

    def remove(self, action: Callable[[], None]) -> None:
        self.actions.remove(action)
        if not self.actions:
            delattr(self._module, self._hook)
