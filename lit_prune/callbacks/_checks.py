"""Checks that several callbacks share."""

from typing import Any

from lightning.pytorch import Trainer

from lit_prune.errors import expected
from lit_prune.functional.schedule import SCHEDULES, first_pruned_epoch

__all__ = ["check_epoch", "check_names", "check_times", "refuse_sharded_parameters"]

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


def check_times(start_epoch: Any, end_epoch: Any, schedule: Any, every_n_epochs: Any, rewind_to: Any) -> None:
    """Refuse times of pruning that cannot be used, or not together.

    Raises:
        InputError: If one is no epoch, no number of epochs or no schedule, if the end is before the start, or if what
            is to be rewound to comes after the first pruning.
    """
    check_epoch("start_epoch", start_epoch)
    if end_epoch is not None:
        check_epoch("end_epoch", end_epoch)
        if end_epoch < start_epoch:
            raise expected(
                f"`end_epoch` not to be before `start_epoch`, which is {start_epoch}",
                end_epoch,
                "leave it out to prune once, at `start_epoch`",
            )
    if schedule not in SCHEDULES:
        what = '`schedule` to be "cubic", "geometric" or "linear"'
        raise expected(what, schedule, "leave out `end_epoch` to prune once")
    if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
        what = "`every_n_epochs` to be a whole number from 1 on"
        raise expected(what, every_n_epochs, "1 prunes in every epoch of a rise")
    if rewind_to is not None:
        check_epoch("rewind_to", rewind_to)
        if rewind_to >= (first := first_pruned_epoch(start_epoch, end_epoch, every_n_epochs)):
            what = f"`rewind_to` to be before epoch {first}, the first that prunes"
            raise expected(what, rewind_to, "train before pruning, with a later `start_epoch`")


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
