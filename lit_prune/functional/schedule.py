"""How sparse a model is to be in each epoch."""

import math

__all__ = ["SCHEDULES", "first_pruned_epoch", "sparsity_at"]

SCHEDULES = ("cubic", "geometric", "linear")


def sparsity_at(
    epoch: int,
    amount: float,
    start_epoch: int = 0,
    end_epoch: int | None = None,
    schedule: str = "cubic",
    every_n_epochs: int = 1,
) -> float:
    """Return the sparsity that a schedule calls for in an epoch.

    Between `start_epoch`, where it is 0, and `end_epoch`, where it is `amount`, the sparsity at the fraction t of the
    way is

    - "linear": `amount * t`;
    - "cubic": `amount * (1 - (1 - t)**3)` (Zhu & Gupta, "To prune, or not to prune", 2017);
    - "geometric": `1 - (1 - amount)**t`, so that every step prunes the same fraction of what is left, as iterative
      magnitude pruning does (Frankle & Carbin, "The lottery ticket hypothesis", 2019).

    Args:
        epoch: Counted from 0.
        amount: The sparsity to reach.
        start_epoch: Where the rise begins, or, without `end_epoch`, where all of it happens.
        end_epoch: Where `amount` is reached. None prunes once.
        schedule: One of `SCHEDULES`.
        every_n_epochs: The rise goes in steps, at every n-th epoch from `start_epoch` on, and at `end_epoch`.
    """
    if epoch < start_epoch:
        return 0.0
    if end_epoch is None or epoch >= end_epoch:
        return amount
    way = (epoch - start_epoch) // every_n_epochs * every_n_epochs / (end_epoch - start_epoch)
    match schedule:
        case "linear":
            return amount * way
        case "geometric":
            return -math.expm1(way * math.log1p(-amount))  # `1 - (1 - amount)**way`, exact for small amounts too
        case _:
            return amount * (1 - (1 - way) ** 3)


def first_pruned_epoch(start_epoch: int, end_epoch: int | None, every_n_epochs: int = 1) -> int:
    """Return the first epoch in which a schedule calls for any sparsity; the arguments are those of `sparsity_at`."""
    if end_epoch is None:
        return start_epoch
    return min(start_epoch + every_n_epochs, end_epoch)
