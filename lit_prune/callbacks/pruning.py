"""Pruning callbacks by criterion: global magnitude, local magnitude, random."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from lit_prune.callbacks._pruning import Pruning
from lit_prune.errors import check_integer
from lit_prune.functional.criteria import RandomScore, magnitude


class GlobalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude over all chosen layers, once or gradually.

    Pruning happens before the first training batch of an epoch. Pruned weights are exactly zero from then on and stay
    pruned, whatever the optimizer does, unless a `PruningRemoval` removes the masks. `docs/guarantees.md` lists
    all guarantees; `docs/how-to/lottery-tickets.md` explains how `rewind_to` finds lottery tickets (Frankle & Carbin,
    "The lottery ticket hypothesis", 2019; Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis",
    2020). Nothing is logged; `SparsityMonitor` logs sparsity.

    Arguments and errors are those of `Pruning`.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GlobalL1Pruning(0.8, start_epoch=2, end_epoch=8), logger=False)
        >>> tickets = GlobalL1Pruning(0.8, end_epoch=70, schedule="geometric", every_n_epochs=10, rewind_to=0)
    """

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by their absolute value."""
        return magnitude(weights)


class LocalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude of each chosen layer, the same fraction in all layers.

    There is no `max_layer_sparsity`. All other arguments and the errors are those of `Pruning`.

    Args:
        amount: Fraction of each layer's weights to prune, in [0, 1): exactly `round(amount * n)` of n weights.
    """

    scope = "local"

    def __init__(
        self,
        amount: float,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        schedule: str = "cubic",
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        every_n_epochs: int = 1,
        rewind_to: int | None = None,
        parameters: list[str] | str | None = None,
    ) -> None:
        super().__init__(
            amount, start_epoch, end_epoch, schedule, layers, exclude, None, every_n_epochs, rewind_to, parameters
        )

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by their absolute value."""
        return magnitude(weights)


class GlobalRandomPruning(Pruning):
    """Prune random weights, as a baseline for other criteria.

    The choice depends only on the random seed and the shapes of the weights; the global random state is not used. Other
    arguments and errors are those of `Pruning`.

    Args:
        seed: Random seed used to choose weights, an integer in [0, 2**32).
    """

    def __init__(
        self,
        amount: float,
        seed: int = 0,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        schedule: str = "cubic",
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        max_layer_sparsity: float | None = None,
        every_n_epochs: int = 1,
        rewind_to: int | None = None,
        parameters: list[str] | str | None = None,
    ) -> None:
        check_integer("seed", seed, 0, 2**32 - 1, hint="the same seed prunes the same weights")
        super().__init__(
            amount,
            start_epoch,
            end_epoch,
            schedule,
            layers,
            exclude,
            max_layer_sparsity,
            every_n_epochs,
            rewind_to,
            parameters,
        )
        self.seed = seed

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights at random."""
        return RandomScore(self.seed)(weights)
