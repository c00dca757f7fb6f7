"""Checks that several callbacks share."""

from typing import Any

from lightning.pytorch import Trainer

from lit_prune.errors import expected

__all__ = ["check_epoch", "check_names", "refuse_sharded_parameters"]

_SHARDING = {"FSDPStrategy", "DeepSpeedStrategy", "ModelParallelStrategy"}


def check_epoch(argument: str, value: Any) -> None:
    """Refuse what is not the number of an epoch.

    Raises:
        InputError: If the value is not a whole number from 0 on.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise expected(
            f"`{argument}` to be a whole number from 0 on", value, "epochs are counted from 0, as in Lightning"
        )


def check_names(argument: str, value: Any) -> None:
    """Refuse a pattern without a character, which would stand for the whole model.

    Raises:
        InputError: If there is one.
    """
    if "" in ([value] if isinstance(value, str) else value or []):
        raise expected(f"`{argument}` to name something", "an empty name", 'give globs like "backbone.layer1"')


def refuse_sharded_parameters(trainer: Trainer, callback: object) -> None:
    """Refuse strategies under which a process does not hold whole parameters.

    Raises:
        InputError: Under FSDP, DeepSpeed or a model-parallel strategy.
    """
    # by name, because lightning.pytorch and pytorch_lightning each have their own classes
    if _SHARDING & {base.__name__ for base in type(trainer.strategy).__mro__}:
        raise expected(
            f"a strategy that keeps parameters whole for {type(callback).__name__}",
            type(trainer.strategy).__name__,
            'use one device or `strategy="ddp"`',
        )
