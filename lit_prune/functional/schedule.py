"""Pruning schedules: sparsity as a function of the epoch."""

import math

SCHEDULES = ("cubic", "geometric", "linear")


def sparsity_at(
    epoch: int,
    amount: float,
    start_epoch: int = 0,
    end_epoch: int | None = None,
    schedule: str = "cubic",
    every_n_epochs: int = 1,
) -> float:
    """Return the sparsity that a schedule sets for an epoch.

    Sparsity ramps from 0 at `start_epoch` to `amount` at `end_epoch`. With t, which grows from 0 to 1 between these
    epochs, the sparsity is

    - "linear": `amount * t`;
    - "cubic": `amount * (1 - (1 - t)**3)` (Zhu & Gupta, "To prune, or not to prune", 2017);
    - "geometric": `1 - (1 - amount)**t`: each step prunes the same fraction of the remaining weights, as in iterative
      magnitude pruning (Frankle & Carbin, "The lottery ticket hypothesis", 2019).

    Args:
        epoch: Epoch, counted from 0 like the other epochs.
        amount: Sparsity to reach.
        start_epoch: Epoch at which the ramp starts, or, without `end_epoch`, at which all of `amount` is pruned.
        end_epoch: Epoch at which the ramp reaches `amount`. None prunes all at once, at `start_epoch`.
        schedule: One of `SCHEDULES`.
        every_n_epochs: Epochs between two steps of the ramp; the last step is at `end_epoch`.
    """
    if epoch < start_epoch:
        return 0.0
    if end_epoch is None or epoch >= end_epoch:
        return amount
    time = (epoch - start_epoch) // every_n_epochs * every_n_epochs / (end_epoch - start_epoch)
    match schedule:
        case "linear":
            return amount * time
        case "geometric":
            return -math.expm1(time * math.log1p(-amount))  # `1 - (1 - amount)**time`, exact for small amounts too
        case _:
            return amount * (1 - (1 - time) ** 3)


def first_pruned_epoch(start_epoch: int, end_epoch: int | None, every_n_epochs: int = 1) -> int:
    """Return the first epoch in which weights are pruned; the arguments are those of `sparsity_at`."""
    return start_epoch if end_epoch is None else min(start_epoch + every_n_epochs, end_epoch)
