"""Validate arguments and trainers, for several callbacks."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.errors import check_integer, expected
from lit_prune.functional.schedule import Schedule, first_pruning_time, sparsity_at

_SHARDING = {"FSDPStrategy", "DeepSpeedStrategy"}


def check_epoch(argument: str, value: Any) -> None:
    """Raise an `InputError` unless a value is a non-negative integer."""
    check_integer(argument, value, 0, hint="epochs are counted from 0, as in Lightning")


@dataclass(frozen=True)
class Times:
    """When a callback prunes.

    Attributes:
        unit: "epoch" or "step"; steps are those that `trainer.global_step` counts.
        start: Time at which pruning starts, counted from 0.
        end: Time at which the last weights are pruned; None prunes all at `start`.
        every: Time between two pruning steps.
    """

    unit: str
    start: int
    end: int | None
    every: int

    @classmethod
    def of(cls, epochs: tuple[Any, Any, Any], steps: tuple[Any, Any, Any]) -> "Times":
        """Check the times of `Pruning`, given in epochs or in optimizer steps, as (start, end, every)."""
        unit = "epoch" if steps == (None, None, None) else "step"
        if unit == "step" and epochs != (0, None, 1):
            hint = "leave out `start_epoch`, `end_epoch` and `every_n_epochs`, or the arguments that count steps"
            raise expected("times in epochs or in optimizer steps", "both", hint)
        start, end, every = epochs
        if unit == "step":
            start, end, every = 0 if steps[0] is None else steps[0], steps[1], 1 if steps[2] is None else steps[2]
        counted = f"{unit}s are counted from 0, as in Lightning"
        check_integer(f"start_{unit}", start, 0, hint=counted)
        if end is not None:
            check_integer(f"end_{unit}", end, 0, hint=counted)
            if end < start:
                what = f"`end_{unit}` to be at least `start_{unit}`, which is {start}"
                raise expected(what, end, f"leave `end_{unit}` out to prune all at once, at `start_{unit}`")
        check_integer(f"every_n_{unit}s", every, 1, hint=f"1 prunes in every {unit} of gradual pruning")
        return cls(unit, start, end, every)

    def now(self, trainer: Trainer) -> int:
        """Return the current time of a trainer."""
        return trainer.current_epoch if self.unit == "epoch" else trainer.global_step

    def sparsity(self, time: int, amount: float, schedule: Schedule | str) -> float:
        """Return the sparsity that a schedule sets for a time; see `sparsity_at`."""
        return sparsity_at(time, amount, self.start, self.end, schedule, self.every)

    def check_rewinding(self, rewind_to: Any, schedule: Schedule | str) -> None:
        """Raise an `InputError` unless `rewind_to` is an epoch before the first pruning."""
        check_epoch("rewind_to", rewind_to)
        if self.unit == "step":
            raise expected(
                "no `rewind_to` if times are given in steps", rewind_to, "give `start_epoch` and `end_epoch`"
            )
        if rewind_to >= (first := first_pruning_time(self.start, self.end, schedule, self.every)):
            what = f"`rewind_to` to be less than {first}, the first epoch in which weights are pruned"
            raise expected(what, rewind_to, "give a later `start_epoch`, so that training starts before pruning")


def imported(value: Any) -> Any:
    """Import what a string like "package.module.name" names, and instantiate a class; return other values unchanged."""
    module, _, name = value.rpartition(".") if isinstance(value, str) else ("", "", "")
    if not module:
        return value
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        hint = "start Python in the folder of the module, or add the folder to PYTHONPATH"
        raise expected("the path of a function that can be imported", f"`{value}` ({error})", hint) from error
    return found() if isinstance(found, type) else found


def check_names(argument: str, value: Any) -> None:
    """Raise an `InputError` for an empty pattern; the empty name is that of the model itself, not of a layer."""
    if "" in ([value] if isinstance(value, str) else value or []):
        raise expected(f"`{argument}` to name layers", "an empty name", 'give globs like "backbone.layer1"')


def refuse_sharded_parameters(trainer: Trainer, callback: object, model_parallel: bool = False) -> None:
    """Raise an `InputError` under strategies that split parameters between processes.

    Args:
        trainer: Trainer to check.
        callback: Callback that the error message names.
        model_parallel: Whether the callback supports `ModelParallelStrategy`, where split parameters are DTensors.
    """
    if _SHARDING & base_names(trainer.strategy) or (is_model_parallel(trainer) and not model_parallel):
        what = f"a strategy that {type(callback).__name__} supports"
        others = ', `strategy="ddp"` or `ModelParallelStrategy`' if model_parallel else ' or `strategy="ddp"`'
        raise expected(
            what, type(trainer.strategy).__name__, f"it splits parameters between processes; use one device{others}"
        )


def is_model_parallel(trainer: Trainer) -> bool:
    """Return whether a trainer's strategy is `ModelParallelStrategy`, which may split parameters (FSDP2)."""
    return "ModelParallelStrategy" in base_names(trainer.strategy)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return all callbacks of a trainer."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def continues(trainer: Trainer, pl_module: LightningModule, previous: LightningModule | None) -> bool:
    """Return whether a trainer continues to train the same model as in its previous `fit`."""
    return pl_module is previous and trainer.current_epoch > 0


def overrides(pl_module: LightningModule, hook: str) -> bool:
    """Return whether a module overrides a hook of `LightningModule`."""
    base = next(cls for cls in type(pl_module).__mro__ if cls.__name__ == "LightningModule")
    return getattr(type(pl_module), hook) is not getattr(base, hook)


def base_names(value: object) -> set[str]:
    """Return the names of a value's class and its bases; both Lightning packages use the same names."""
    return {base.__name__ for base in type(value).__mro__}
