"""Freeze parts of a model during training."""

from collections.abc import Callable, Sequence
from math import inf, isnan
from typing import Any, TypedDict, cast

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
    continues,
    overrides,
    refuse_sharded_parameters,
)
from lit_prune.callbacks._holding import MaskHolder
from lit_prune.callbacks._messages import warn_of_copies
from lit_prune.callbacks._wrapping import Wrapped
from lit_prune.errors import check_choice, check_integer, closest_hint, expected
from lit_prune.functional.freezing import (
    Frozen,
    ScaledUpdates,
    check_selection,
    modules_still_frozen,
    modules_to_freeze,
)
from lit_prune.functional.selection import group_weights_by_layer
from lit_prune.functional.step_hooks import before_step

# key in checkpoints under which the frozen modules are listed
FROZEN_KEY = "lit_prune_frozen"


class Phase(TypedDict, total=False):
    """One phase of thawing, an entry of the argument `phases` of `LayerFreezing`.

    Attributes:
        epoch: First epoch of the phase, counted from 0.
        layers: Globs on qualified names of modules that train from this phase on, with everything in them.
        fraction: Fraction of the model that remains frozen from this phase on. Without `layers` and `fraction`, the
            phase thaws everything.
        lr_factor: Factor that multiplies the learning rate of the parameters that this phase thaws, until `fit`
            finishes. 1 by default.
        patience: Number of validations (or of epochs, if there is no validation) in a row without an improvement of
            `monitor` after which the phase starts, even before `epoch`. A validation improves `monitor` if its value is
            better than all others since the previous phase started. With `patience`, `epoch` may be left out.
    """

    epoch: int
    layers: list[str] | str
    fraction: float
    lr_factor: float
    patience: int


class LayerFreezing(Callback):
    """Freeze a model's first layers, or layers by name, until `fit` ends, until an epoch, or until phases thaw them.

    Frozen parameters and buffers do not change at all. Frozen modules compute as in evaluation mode. Gradient clipping
    ignores frozen parameters. Gradients of parameters that a phase thaws later are computed, but set to None before
    each optimizer step. Optimizers keep their parameter groups. A resumed run is bit-identical to an uninterrupted one.
    Nothing is logged; checkpoints list the frozen modules under "lit_prune_frozen". See `docs/how-to/freezing.md`.

    Weight averaging also averages frozen parameters. Their average is exact with torch's `multi_avg_fn`s, but has
    rounding errors with `get_ema_avg_fn`, which Lightning's `EMAWeightAveraging` uses.

    Args:
        fraction: Fraction of the model to freeze, in (0, 1]: the first `ceil(fraction * L)` of the L layers with
            weights, in the order of registration; all other modules that are registered before the first layer that
            trains; and the own parameters of all modules that contain this layer, such as a class token. Give either
            `fraction` or `layers`.
        layers: Globs that match the qualified names of modules to freeze, for example "backbone.layer1". Everything
            inside these modules is frozen, too.
        by: Meaning of `fraction`: "layers" counts layers, as above; "parameters" freezes the fewest first layers that
            hold at least this fraction of all weights.
        freeze_norm: Whether to freeze normalization layers and dropouts (of any library), too.
        unfreeze_epoch: First epoch, counted from 0, in which the frozen layers train. None never unfreezes.
        phases: List of phases that thaw the frozen layers in order, each a dictionary with the keys of `Phase`. Not
            together with `unfreeze_epoch`.
        monitor: Name of a logged metric. If it does not improve, phases with a `patience` start early.
        mode: Whether a lower ("min") or higher ("max") value of `monitor` is better.

    Raises:
        InputError: At construction, if an argument cannot be used. In `setup`: if a pattern matches nothing, if a phase
            thaws nothing, if nothing is left to train, under strategies that shard parameters, and together with
            `StochasticWeightAveraging` if batch norms are frozen, because that callback resets their statistics. After
            validation: if `monitor` was not logged.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> thawing = [{"epoch": 3, "layers": "backbone.layer4", "lr_factor": 0.1}, {"epoch": 6, "fraction": 0.2}]
        >>> trainer = Trainer(callbacks=LayerFreezing(layers="backbone", phases=thawing), logger=False)
    """

    def __init__(
        self,
        fraction: float | None = None,
        layers: list[str] | str | None = None,
        by: str = "layers",
        freeze_norm: bool = True,
        unfreeze_epoch: int | None = None,
        phases: list[Phase] | list[dict[str, Any]] | None = None,  # `dict`: this class checks the keys, not the parser
        monitor: str | None = None,
        mode: str = "min",
    ) -> None:
        check_selection(fraction, layers, by)
        check_names("layers", layers)
        if unfreeze_epoch is not None:
            check_epoch("unfreeze_epoch", unfreeze_epoch)
        if unfreeze_epoch is not None and phases is not None:
            raise expected("`unfreeze_epoch` or `phases`", "both", "a phase with only an `epoch` unfreezes everything")
        _check_phases(phases, monitor)
        check_choice("mode", mode, ("min", "max"))
        self.fraction = fraction
        self.layers = layers
        self.by = by
        self.freeze_norm = freeze_norm
        self.unfreeze_epoch = unfreeze_epoch
        self.phases = phases
        self.monitor = monitor
        self.mode = mode
        once: list[Phase] = [] if unfreeze_epoch is None else [{"epoch": unfreeze_epoch}]
        self._phases: Sequence[Phase] = once if phases is None else cast(list[Phase], phases)
        self._module: LightningModule | None = None
        # names and modules that are frozen in each stage: before the first phase, in the first phase, and so on
        self._stages: list[list[tuple[str, nn.Module]]] = []
        self._stage = 0
        self._frozen: Frozen | None = None
        self._scaled: list[ScaledUpdates] = []
        self._handles: list[RemovableHandle] = []
        self._hook: Wrapped | None = None
        self._progress: dict[str, Any] = {}
        self._forget()

    @property
    def state_key(self) -> str:
        """Key in the checkpoint, different for each `LayerFreezing` of a trainer."""
        return self._generate_state_key(
            fraction=self.fraction,
            layers=self.layers,
            by=self.by,
            freeze_norm=self.freeze_norm,
            unfreeze_epoch=self.unfreeze_epoch,
            phases=self.phases,
            monitor=self.monitor,
            mode=self.mode,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Freeze as soon as the layers exist, before DDP and the optimizers are set up."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        MaskHolder.add_to(trainer)  # the model may have been masked before
        self._release()
        self._stages = []
        if not continues(trainer, pl_module, self._module):
            self._forget()
        self._module = pl_module
        # the module's own hooks run after this one and may create layers
        hook = next((hook for hook in ("configure_model", "setup") if overrides(pl_module, hook)), None)
        if hook is None:
            self._freeze(trainer, pl_module)
        else:

            def freeze_after(original: Callable[..., None], *args: Any, **kwargs: Any) -> None:
                original(*args, **kwargs)
                self._freeze(trainer, pl_module)

            # a closure, because `deepcopy` of the module would copy what a `partial` holds, the trainer and its data
            self._hook = Wrapped(pl_module, hook, freeze_after)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Freeze again, because a strategy may have replaced modules by synchronised batch norms."""
        self._release()
        if self.fraction is not None:
            advice = "Its layers count towards `fraction`. HINT: freeze by name, with `layers`."
            warn_of_copies(pl_module, {refs[0].module for refs in group_weights_by_layer(pl_module)}, advice)
        self._freeze(trainer, pl_module)
        # in manual optimization, an optimizer without Lightning's wrapper does not call `on_before_optimizer_step`
        self._handles = [before_step(optimizer, self._drop_gradients) for optimizer in trainer.optimizers]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter the phase in which a resumed run starts."""
        self._reconcile(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Enter the phases that start in this epoch."""
        self._reconcile(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Enter a phase that `patience` starts early, after a validation within the epoch."""
        self._reconcile(trainer)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """In manual optimization, set the gradients of frozen parameters to None before the module uses them."""
        if not pl_module.automatic_optimization:
            self._drop_gradients()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Set the gradients of frozen parameters to None, before gradients are clipped."""
        self._drop_gradients()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count validations in which `monitor` did not improve."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._start_phase_early(trainer, pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count epochs in which `monitor` did not improve, if there is no validation."""
        if not trainer.enable_validation:
            self._start_phase_early(trainer, pl_module)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the names of the modules that are frozen, or were frozen when training finished."""
        # outside the callback states: Lightning warns if the Trainer lacks a callback whose state is in the checkpoint
        names = (name for name, _ in self._stages[self._stage]) if self._stages else ()
        checkpoint[FROZEN_KEY] = sorted({*checkpoint.get(FROZEN_KEY, []), *names})

    def state_dict(self) -> dict[str, Any]:
        """Return the best value of `monitor` and the counts that start phases early, if there is a `monitor`."""
        return {} if self.monitor is None else dict(self._progress)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self._progress = dict(state_dict)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Unfreeze the module."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Unfreeze the module."""
        self._release()

    def _freeze(self, trainer: Trainer, pl_module: LightningModule) -> None:
        stages = [modules_to_freeze(pl_module, self.fraction, self.layers, self.by, self.freeze_norm)]
        averages = any("StochasticWeightAveraging" in base_names(callback) for callback in callbacks_of(trainer))
        if averages and any(getattr(module, "running_mean", None) is not None for _, module in stages[0]):
            raise expected(
                "no StochasticWeightAveraging together with frozen batch norms",
                "both",
                "StochasticWeightAveraging resets their statistics; use WeightAveraging, or `freeze_norm=False`",
            )
        for phase in self._phases:
            left = modules_still_frozen(pl_module, stages[-1], phase.get("fraction"), phase.get("layers"), self.by)
            stages.append(left)
        self._stages = stages
        self._enter(trainer, 0)
        if not any(parameter.requires_grad for parameter in pl_module.parameters()):
            raise expected(
                "at least one parameter to train",
                f"every parameter of {type(pl_module).__name__} frozen",
                "freeze fewer layers, or give an `unfreeze_epoch`",
            )

    def _forget(self) -> None:
        # "early": number of phases that `monitor` has started, with all phases before them; "counted": number of phases
        # that had started when "best" and "waited" were last reset; "best": best value of `monitor` since that reset;
        # "waited": number of validations since "best"
        self._progress = {"early": 0, "counted": 0, "best": None, "waited": 0}

    def _started(self, trainer: Trainer) -> int:
        """Count the phases that have started."""
        numbered = enumerate(self._phases, start=1)
        due = (number for number, phase in numbered if phase.get("epoch", inf) <= trainer.current_epoch)
        early: int = self._progress["early"]
        return max(early, *due, 0)

    def _start_phase_early(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the next phase early if `monitor` has not improved in that phase's `patience` validations."""
        started, progress = self._started(trainer), self._progress
        if self.monitor is None or started == len(self._phases) or "patience" not in self._phases[started]:
            return
        if (logged_value := trainer.callback_metrics.get(self.monitor)) is None:
            logged = ", ".join(f"`{name}`" for name in trainer.callback_metrics) or "nothing"
            where = "`validation_step`" if trainer.enable_validation else "`training_step`"
            hint = f"log it with `self.log` in {where}; logged so far: {logged}"
            raise expected("`monitor` to be a logged metric", repr(self.monitor), hint)
        # processes must agree, even if each of them has logged its own value
        value = float(trainer.strategy.reduce(logged_value.to(pl_module.device), reduce_op="mean"))
        if progress["counted"] != started:
            progress |= {"counted": started, "best": None, "waited": 0}
        best = progress["best"]
        if best is None or isnan(best) or (value < best if self.mode == "min" else value > best):
            progress |= {"best": value, "waited": 0}
        else:
            progress["waited"] += 1
        if progress["waited"] >= self._phases[started]["patience"]:
            progress["early"] = started + 1

    def _reconcile(self, trainer: Trainer) -> None:
        if self._stage != (started := self._started(trainer)):
            self._enter(trainer, started)

    def _enter(self, trainer: Trainer, stage: int) -> None:
        """Freeze what the first `stage` phases leave frozen, and scale the updates of parameters that they thawed."""
        self._thaw()
        self._stage = stage
        last = {module for _, module in self._stages[-1]}
        later = {module for _, module in self._stages[0] if module not in last}
        self._frozen = Frozen([module for _, module in self._stages[stage]], keep_backward=later)
        parameters = [
            {parameter for _, module in modules for parameter in module.parameters(recurse=False)}
            for modules in self._stages[: stage + 1]
        ]
        for phase, before, after in zip(self._phases, parameters, parameters[1:], strict=False):
            if (factor := phase.get("lr_factor", 1)) != 1:
                thawed = before - after
                self._scaled += [ScaledUpdates(optimizer, thawed, factor) for optimizer in trainer.optimizers]

    def _drop_gradients(self) -> None:
        if self._frozen is not None:
            self._frozen.drop_gradients()

    def _thaw(self) -> None:
        if self._frozen is not None:
            self._frozen.thaw()
        for scaled in self._scaled:
            scaled.remove()
        self._frozen, self._scaled = None, []

    def _release(self) -> None:
        if self._hook is not None:
            self._hook.remove()
        for handle in self._handles:
            handle.remove()
        self._thaw()
        self._hook, self._handles = None, []


def _check_phases(phases: Any, monitor: Any) -> None:
    """Raise an `InputError` unless `phases` is None or a list of valid phases in the order of their epochs."""
    if phases is None and monitor is None:
        return
    if not isinstance(phases, list | tuple) or not phases or not all(isinstance(phase, dict) for phase in phases):
        hint = 'a phase is, for example, {"epoch": 3, "layers": "backbone.layer4", "lr_factor": 0.1}'
        raise expected("`phases` to be a list of dictionaries", phases, hint)
    epoch = -1
    for number, phase in enumerate(phases):
        name = f"phases[{number}]"
        if unknown := [key for key in phase if key not in Phase.__annotations__]:
            keys = ", ".join(Phase.__annotations__)
            hint = closest_hint(str(unknown[0]), Phase.__annotations__, "choose among these")
            raise expected(f"`{name}` to have no other keys than {keys}", f"`{unknown[0]}`", hint)
        fraction, layers = phase.get("fraction"), phase.get("layers")
        if fraction is not None or layers is not None:
            check_selection(fraction, layers)
            check_names("layers", layers)
        if "patience" in phase:
            check_integer(f"{name}.patience", phase["patience"], 1, hint="it is a number of validations")
            if monitor is None:
                raise expected(
                    "a `monitor` for phases with `patience`", "none", "name a logged metric, such as val_loss"
                )
        if "epoch" in phase or "patience" not in phase:
            check_epoch(f"{name}.epoch", phase.get("epoch"))
            if phase["epoch"] <= epoch:
                what = f"`{name}.epoch` to be larger than {epoch}, the epoch of an earlier phase"
                raise expected(what, phase["epoch"], "list the phases in the order in which they start")
            epoch = phase["epoch"]
        factor = phase.get("lr_factor", 1)
        if isinstance(factor, bool) or not isinstance(factor, int | float) or not 0 < factor < inf:
            raise expected(f"`{name}.lr_factor` to be a positive number", factor, "1 keeps the learning rate")
    if monitor is not None and not any("patience" in phase for phase in phases):
        raise expected(
            "a phase with `patience`, as `monitor` is set", "none", "give a phase a `patience`, or leave `monitor` out"
        )
