"""Pruning callbacks, one for each way to choose weights."""

from collections.abc import Iterable, Sequence

from torch import Tensor

from lit_prune.callbacks._pruning import Pruning
from lit_prune.errors import expected
from lit_prune.functional.pruning import RandomScore, magnitude

__all__ = ["GlobalL1Pruning", "GlobalRandomPruning", "LocalL1Pruning"]

_SEEDS = 2**32


class GlobalL1Pruning(Pruning):
    """Prune the weights of the smallest magnitude, over all chosen layers together, once or step by step.

    Pruning happens before the first training batch of its epoch, so that the training, validation, metrics and
    checkpoint of that epoch see one model. Pruned weights are exactly zero from then on, whatever the optimizer does,
    and stay pruned; a `PruningRemoval` lets them train again. `validate`, `test` and `predict` prune nothing.
    Only weights are pruned, never norms, biases or embeddings. Under DDP all processes compute the same masks.

    A state dict or checkpoint has the keys of a model that was never pruned, with the zeros in it, and loads
    without this package. The masks are in the callback's state; a resumed run goes on exactly. After `fit` the model
    keeps its masks. Nothing is logged; see `SparsityMonitor`.

    With `rewind_to`, pruning looks for lottery tickets (Frankle & Carbin, "The lottery ticket hypothesis", 2019; with a
    later epoch, Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020): each time weights
    are pruned, the whole model, biases, norms and their statistics included, goes back to its values at the start of
    that epoch, but for the zeros. Optimizers begin anew; schedules of learning rates and the order of the data go on.
    The values travel in the callback's state, a copy of the model, until the last pruning.

    Args:
        amount: In [0, 1): the fraction of all chosen weights that is to be zero, exact to one weight.
        start_epoch: The epoch, counted from 0, in which all is pruned, or, with `end_epoch`, the rise begins.
        end_epoch: The epoch in which a gradual rise reaches `amount`. None prunes once.
        schedule: How it rises: "cubic" (Zhu & Gupta 2017), "linear", or "geometric", which prunes the same fraction of
            what is left at every step (Frankle & Carbin 2019). It does not matter without `end_epoch`.
        layers: Globs on qualified names of what to prune, for example "backbone.layer4". None takes the
            `weight` of every convolution and linear layer.
        exclude: Globs of what to leave out.
        max_layer_sparsity: In (0, 1]: prune at most this fraction of any layer and take the rest elsewhere.
        every_n_epochs: A gradual rise goes in steps, at every n-th epoch from `start_epoch` on and at `end_epoch`.
        rewind_to: Each time weights are pruned, all others go back to their values at the start of this epoch; 0 are
            the weights that training began with. None goes on with the weights as they are.

    Raises:
        InputError: At construction, if an argument cannot be used; when `fit` starts, if a pattern matches nothing,
            if two pruning callbacks choose the same weight or rewind to different epochs, under strategies that shard
            parameters, and beside callbacks that average weights; at the first batch, if a resumed run does not have
            what it is to rewind to; when it prunes, if a weight is NaN or infinite.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=GlobalL1Pruning(0.8, start_epoch=2, end_epoch=8), logger=False)
        >>> tickets = GlobalL1Pruning(0.8, end_epoch=70, schedule="geometric", every_n_epochs=10, rewind_to=0)
    """

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by their absolute value."""
        return magnitude(weights)


class LocalL1Pruning(Pruning):
    """Prune the weights of the smallest magnitude of every chosen layer, all layers to the same amount.

    In everything but the choice of weights this is `GlobalL1Pruning`, with the same guarantees.

    Args:
        amount: In [0, 1): the fraction of each layer's weights that is to be zero, exact to one weight of the layer.
        start_epoch: As in `GlobalL1Pruning`, like all that follows.
        end_epoch: When the rise ends.
        schedule: "cubic", "geometric" or "linear".
        layers: Globs of what to prune.
        exclude: Globs of what to leave out.
        every_n_epochs: How many epochs a step of the rise takes.
        rewind_to: The epoch whose first weights the model goes back to when it is pruned.

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
    """Prune weights at random, the control of every pruning study.

    In everything but the choice of weights this is `GlobalL1Pruning`, with the same guarantees. The choice
    depends on the seed and the shapes of the weights alone, not on the global random state, which is left alone.

    Args:
        amount: As in `GlobalL1Pruning`, like all arguments but the seed.
        seed: Of the choice.
        start_epoch: When all is pruned or the rise begins.
        end_epoch: When the rise ends.
        schedule: "cubic", "geometric" or "linear".
        layers: Globs of what to prune.
        exclude: Globs of what to leave out.
        max_layer_sparsity: The largest fraction to prune of any layer.
        every_n_epochs: How many epochs a step of the rise takes.
        rewind_to: The epoch whose first weights the model goes back to when it is pruned.

    Raises:
        InputError: As in `GlobalL1Pruning`, and if the seed is not a whole number in [0, 2**32).
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
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < _SEEDS:
            what = f"`seed` to be a whole number in [0, {_SEEDS - 1}]"
            raise expected(what, seed, "the choice depends on nothing else")
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
        )
        self.seed = seed

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Draw scores from the seed."""
        return RandomScore(self.seed)(weights)
