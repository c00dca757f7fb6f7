"""Validate arguments and trainers, for several callbacks."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.errors import check_choice, check_integer, expected
from lit_prune.functional.schedule import SCHEDULES, first_pruned_epoch

_SHARDING = {"FSDPStrategy", "DeepSpeedStrategy"}


def check_epoch(argument: str, value: Any) -> None:
    """Raise an `InputError` unless a value is a non-negative integer."""
    check_integer(argument, value, 0, hint="epochs are counted from 0, as in Lightning")


def check_times(start_epoch: Any, end_epoch: Any, schedule: Any, every_n_epochs: Any, rewind_to: Any) -> None:
    """Raise an `InputError` unless these arguments of `Pruning` are valid, separately and together."""
    check_epoch("start_epoch", start_epoch)
    if end_epoch is not None:
        check_epoch("end_epoch", end_epoch)
        if end_epoch < start_epoch:
            what = f"`end_epoch` to be at least `start_epoch`, which is {start_epoch}"
            raise expected(what, end_epoch, "leave `end_epoch` out to prune all at once, at `start_epoch`")
    check_choice("schedule", schedule, SCHEDULES)
    check_integer("every_n_epochs", every_n_epochs, 1, hint="1 prunes in every epoch of gradual pruning")
    if rewind_to is not None:
        check_epoch("rewind_to", rewind_to)
        if rewind_to >= (first := first_pruned_epoch(start_epoch, end_epoch, every_n_epochs)):
            what = f"`rewind_to` to be less than {first}, the first epoch in which weights are pruned"
            raise expected(what, rewind_to, "give a later `start_epoch`, so that training starts before pruning")


def check_names(argument: str, value: Any) -> None:
    """Raise an `InputError` for an empty pattern; it would match the model itself, whose name is empty."""
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
