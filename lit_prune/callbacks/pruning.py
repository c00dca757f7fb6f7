"""Pruning callbacks by name: global magnitude, local magnitude, random."""

from typing import Any

from lit_prune.callbacks._pruning import Pruning


class GlobalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude over all chosen layers, once or gradually.

    `docs/how-to/lottery-tickets.md` explains how `rewind_to` finds lottery tickets (Frankle & Carbin, "The lottery
    ticket hypothesis", 2019; Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020).

    Args:
        amount: Fraction of the chosen weights to prune, in [0, 1): exactly `round(amount * N)` of N weights.
        options: Arguments of `Pruning`, except `criterion` and `allocation`.

    Raises:
        InputError: As `Pruning` does.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GlobalL1Pruning(0.8, start_epoch=2, end_epoch=8), logger=False)
        >>> tickets = GlobalL1Pruning(0.8, end_epoch=70, schedule="geometric", every_n_epochs=10, rewind_to=0)
    """

    def __init__(self, amount: float, **options: Any) -> None:
        super().__init__(amount, criterion="magnitude", allocation="global", **options)


class LocalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude of each chosen layer, the same fraction in all layers.

    Args:
        amount: Fraction of each layer's weights to prune, in [0, 1): exactly `round(amount * n)` of n weights.
        options: Arguments of `Pruning`, except `criterion`, `allocation` and `max_layer_sparsity`.

    Raises:
        InputError: As `Pruning` does.
    """

    def __init__(self, amount: float, **options: Any) -> None:
        super().__init__(amount, criterion="magnitude", allocation="uniform", **options)


class GlobalRandomPruning(Pruning):
    """Prune random weights, as a baseline for other criteria.

    The random scores depend only on the random seed and the shapes of the weights; the global random state is not
    used.

    Args:
        amount: Fraction of the weights of the chosen layers to prune, in [0, 1), rounded as in `Pruning`.
        seed: Random seed, an integer in [0, 2**32).
        options: Arguments of `Pruning`, except `criterion` and `allocation`.

    Raises:
        InputError: As `Pruning` does.
    """

    def __init__(self, amount: float, seed: int = 0, **options: Any) -> None:
        super().__init__(amount, criterion="random", allocation="global", seed=seed, **options)
