"""Pruning callbacks by criterion: global magnitude, local magnitude, random."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from lit_prune.callbacks._pruning import Pruning
from lit_prune.errors import check_integer
from lit_prune.functional.pruning import RandomScore, magnitude


class GlobalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude over all chosen layers, once or gradually.

    Pruning happens before the first training batch of an epoch, so the whole epoch sees one model: training,
    validation, metrics and checkpoint. Pruned weights are exactly zero from then on and stay pruned, whatever the
    optimizer does, until a `PruningRemoval`. Biases, norms and embeddings are never pruned. `validate`, `test` and
    `predict` prune nothing. Nothing is logged; see `SparsityMonitor`.

    A state dict has the keys of an unpruned model, with zeros in it. The masks are in the callback's state, so a
    resumed run continues exactly. After `fit` the model keeps its masks. `docs/callbacks.md` lists all guarantees.

    With `rewind_to`, each pruning resets the whole model, norms and biases included, to its values at the start of
    that epoch, except for the zeros, to find lottery tickets (Frankle & Carbin, "The lottery ticket hypothesis", 2019;
    Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020). Optimizer state is reset too;
    learning rate schedules and the order of the data are not. The callback's state holds a copy of the values until
    the last pruning.

    Args:
        amount: Fraction of all chosen weights to prune, in [0, 1), exact to one weight.
        start_epoch: Epoch, counted from 0, that prunes to `amount`, or, with `end_epoch`, that starts the ramp.
        end_epoch: Epoch at which a gradual ramp reaches `amount`. None prunes once.
        schedule: Shape of the ramp: "cubic" (Zhu & Gupta 2017), "linear", or "geometric", which prunes the same
            fraction of the remaining weights at every step (Frankle & Carbin 2019). Ignored without `end_epoch`.
        layers: Globs on qualified names of layers to prune, for example "backbone.layer4". None prunes all
            convolutions and linear layers.
        exclude: Globs of layers to leave out.
        max_layer_sparsity: Largest fraction of any layer to prune, in (0, 1]; the rest is pruned in other layers. None
            sets no limit.
        every_n_epochs: Epochs between two steps of the ramp; the last step is at `end_epoch`.
        rewind_to: Epoch, counted from 0, to whose first values the other weights are reset at every pruning; 0 resets
            them to the initial values. None does not reset them.

    Raises:
        InputError: At construction, if an argument cannot be used. When `fit` starts: if a pattern matches nothing,
            if two pruning callbacks choose the same weight or rewind to different epochs, under strategies that shard
            parameters, and together with callbacks that average weights. At the first batch: if a resumed run lacks
            the values to rewind to. When pruning: if a weight is NaN or infinite.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GlobalL1Pruning(0.8, start_epoch=2, end_epoch=8), logger=False)
        >>> tickets = GlobalL1Pruning(0.8, end_epoch=70, schedule="geometric", every_n_epochs=10, rewind_to=0)
    """

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by their absolute value."""
        return magnitude(weights)


class LocalL1Pruning(Pruning):
    """Prune the weights of smallest magnitude of each chosen layer, the same fraction in all layers.

    Everything but the choice of weights is as in `GlobalL1Pruning`, which documents the arguments in full.

    Args:
        amount: Fraction of each layer's weights to prune, in [0, 1), exact to one weight.
        start_epoch: Epoch that prunes, or that starts the ramp.
        end_epoch: Epoch that ends the ramp.
        schedule: Shape of the ramp: "cubic", "geometric" or "linear".
        layers: Globs of layers to prune.
        exclude: Globs of layers to leave out.
        every_n_epochs: Epochs between two steps of the ramp.
        rewind_to: Epoch to whose first values the other weights are reset at every pruning.

    Raises:
        InputError: As in `GlobalL1Pruning`.
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
    ) -> None:
        super().__init__(
            amount,
            start_epoch,
            end_epoch,
            schedule,
            layers,
            exclude,
            every_n_epochs=every_n_epochs,
            rewind_to=rewind_to,
        )

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by their absolute value."""
        return magnitude(weights)


class GlobalRandomPruning(Pruning):
    """Prune random weights, as a baseline for other criteria.

    Everything but the choice of weights is as in `GlobalL1Pruning`, which documents the arguments in full. The choice
    depends only on the random seed and the shapes of the weights; the global random state is neither used nor changed.

    Args:
        amount: Fraction of all chosen weights to prune, in [0, 1), exact to one weight.
        seed: Random seed used to choose weights, an integer in [0, 2**32).
        start_epoch: Epoch that prunes, or that starts the ramp.
        end_epoch: Epoch that ends the ramp.
        schedule: Shape of the ramp: "cubic", "geometric" or "linear".
        layers: Globs of layers to prune.
        exclude: Globs of layers to leave out.
        max_layer_sparsity: Largest fraction of any layer to prune.
        every_n_epochs: Epochs between two steps of the ramp.
        rewind_to: Epoch to whose first values the other weights are reset at every pruning.

    Raises:
        InputError: As in `GlobalL1Pruning`, and if the seed cannot be used.
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
    ) -> None:
        check_integer("seed", seed, 0, 2**32 - 1, hint="the same seed prunes the same weights")
        super().__init__(
            amount, start_epoch, end_epoch, schedule, layers, exclude, max_layer_sparsity, every_n_epochs, rewind_to
        )
        self.seed = seed

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights at random."""
        return RandomScore(self.seed)(weights)
