"""When a part of a model is frozen."""

from collections.abc import Callable
from functools import update_wrapper
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_prune.callbacks._checks import check_epoch, check_names, refuse_sharded_parameters
from lit_prune.callbacks._fit import callbacks_of, overrides
from lit_prune.errors import expected
from lit_prune.functional.freezing import Frozen, check_selection, modules_to_freeze

__all__ = ["FROZEN_KEY", "LayerFreezing"]

# where a checkpoint names what is frozen
FROZEN_KEY = "lit_prune_frozen"


class LayerFreezing(Callback):
    """Freeze the first layers of a model, or those that are named, for all of `fit` or until an epoch.

    Frozen tensors do not change by a bit, running statistics of norms included, whatever the optimizer does;
    frozen norms and dropouts compute as in eval mode, whoever calls `train()`. Gradients of frozen parameters do not
    count when gradients are clipped. Optimizers keep their groups and may hold frozen parameters or not.

    A permanent freeze takes the layers out of the backward pass, which saves its time. One that ends cannot:
    DistributedDataParallel decides once which gradients it synchronises. Their gradients are
    computed and dropped before each step, so an optimizer has no state for them until they are unfrozen.

    What is frozen follows from the arguments and the epoch alone: a resumed run goes on exactly, and `validate`, `test`
    and `predict` do nothing. Checkpoints name the frozen modules, under "lit_prune_frozen", for whoever looks at them.
    When `fit` ends, however it ends, the module is as it was: `requires_grad`, hooks and modes. Freezes of several
    callbacks add up; gradual unfreezing is a list of them. Nothing is logged.

    Weight averaging averages frozen tensors too. Averages by `lerp` (torch's `multi_avg_fn`s) return them exactly;
    `get_ema_avg_fn`, and so Lightning's `EMAWeightAveraging`, rounds, and the averaged model ends beside them by that.

    Args:
        fraction: In (0, 1]: freeze the first `ceil(fraction * L)` of the L convolutions and linear layers, in the
            order in which the model registers them. Exactly one of `fraction` and `layers` is to be given.
        layers: Freeze exactly the modules that these globs on qualified names match, for example
            "backbone.layer1", together with everything inside them.
        by: What `fraction` counts: "layers", or "parameters" for the fewest first layers that hold at least
            this fraction of all their weights.
        freeze_norm: With `fraction`, also freeze every norm and dropout of `torch.nn` that is registered before the
            first weight layer that stays trainable. False leaves norms and dropouts training, also inside `layers`.
        unfreeze_epoch: The first epoch, counted from 0, in which the frozen layers train. None never unfreezes.

    Raises:
        InputError: At construction, if an argument cannot be used; in `setup`, if a pattern matches nothing, if
            nothing would be left to train, under strategies that shard parameters, and beside
            `StochasticWeightAveraging` if batch norms are frozen, because it resets their statistics.

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
        """Differs between freezes of one trainer."""
        return self._generate_state_key(
            fraction=self.fraction,
            layers=self.layers,
            by=self.by,
            freeze_norm=self.freeze_norm,
            unfreeze_epoch=self.unfreeze_epoch,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze as soon as the layers exist, so that DDP and optimizers see what is frozen."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        self._release()
        self._names = []
        # callbacks are set up before the module's own hooks have made its layers
        hook = next((hook for hook in ("configure_model", "setup") if overrides(pl_module, hook)), None)
        if hook is None:
            self._freeze(trainer, pl_module)
        else:
            self._unhook = _HookThenActions.add(pl_module, hook, lambda: self._freeze(trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze again, because a strategy may have replaced modules (synchronised batch norms)."""
        self._release()
        self._freeze(trainer, pl_module)
        # optimizers that are stepped behind Lightning's back do not call `on_before_optimizer_step`
        self._handles = [optimizer.register_step_pre_hook(self._before_step) for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze if a resumed run is past the epoch."""
        self._reconcile(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Unfreeze if this is the epoch."""
        self._reconcile(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Unfreeze if this is the epoch: a resumed run may skip the start of an epoch."""
        self._reconcile(trainer)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Drop the gradients of frozen parameters, before gradients are clipped."""
        self._before_step()

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Name the modules that are frozen, or were when training ended; nothing here reads it."""
        # beside the states of callbacks, not among them: Lightning warns of a state whose callback is not there again
        checkpoint[FROZEN_KEY] = sorted({*checkpoint.get(FROZEN_KEY, []), *self._names})

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the module as it was."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the module as it was."""
        self._release()

    def _freeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        named = modules_to_freeze(pl_module, self.fraction, self.layers, self.by, self.freeze_norm)
        modules = [module for _, module in named]
        _refuse_reset_statistics(trainer, modules)
        if self._frozen is not None:
            self._frozen.thaw()
        self._frozen = Frozen(modules, keep_backward=self.unfreeze_epoch is not None)
        self._names = [name for name, _ in named]
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise expected(
                "something left to train",
                f"every parameter of {type(pl_module).__name__} frozen",
                "freeze less, or give an `unfreeze_epoch`",
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


def _refuse_reset_statistics(trainer: Trainer, modules: list[nn.Module]) -> None:
    names = {base.__name__ for callback in callbacks_of(trainer) for base in type(callback).__mro__}
    if "StochasticWeightAveraging" in names and any(
        getattr(module, "running_mean", None) is not None for module in modules
    ):
        raise expected(
            "no StochasticWeightAveraging beside frozen batch norms",
            "both",
            "it resets their statistics at the end; use WeightAveraging, or `freeze_norm=False`",
        )


class _HookThenActions:
    """Stands in for a hook of a module and runs actions of our callbacks after each of its calls."""

    def __init__(self, module: nn.Module, hook: str) -> None:
        self.actions: list[Callable[[], None]] = []
        self._module, self._hook = module, hook
        self._original = getattr(module, hook)
        update_wrapper(self, self._original)

    @classmethod
    def add(cls, module: nn.Module, hook: str, action: Callable[[], None]) -> Callable[[], None]:
        """Have an action run after a hook; returns what takes it away again."""
        standin = vars(module).get(hook)
        if not isinstance(standin, cls):
            standin = cls(module, hook)
            setattr(module, hook, standin)
        standin.actions.append(action)
        return lambda: standin.remove(action)

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        self._original(*args, **kwargs)
        for action in self.actions:
            action()

    def remove(self, action: Callable[[], None]) -> None:
        self.actions.remove(action)
        if not self.actions:
            delattr(self._module, self._hook)
