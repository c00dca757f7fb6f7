"""What the pruning callbacks share: when weights are pruned, and how the masks survive."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_prune.callbacks._checks import check_names, check_times, refuse_sharded_parameters
from lit_prune.callbacks._fit import builds_late, callbacks_of, continues, refuse_averaging
from lit_prune.callbacks._rewinding import Rewinding
from lit_prune.errors import InputError, expected
from lit_prune.functional.masking import apply_masks, current_mask, remove_masks, zero_pruned
from lit_prune.functional.optimizer_state import clear_pruned_state, clear_state, keeps_zeros
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import check_amount, check_max_layer_sparsity, check_room, global_masks, local_masks
from lit_prune.functional.rewinding import rewind
from lit_prune.functional.schedule import sparsity_at
from lit_prune.functional.selection import WeightRef, as_patterns, weight_layers

__all__ = ["Pruning", "pruners_of"]


class Pruning(Callback, ABC):
    """Prune by a criterion of your own: give it a `score`, and inherit all else from here.

    `GlobalL1Pruning` says what is guaranteed, and it is guaranteed for every subclass whose `score` depends on
    nothing but the weights, on arguments, and on what its `state_dict` holds. All arguments but `amount` are optional.

    The masks are on the model; the callback remembers which sparsity it has reached and, before each batch, prunes
    if the epoch calls for more. So it does not matter which hooks a resumed run skips.

    Attributes:
        scope: "global" finds the lowest scores of all chosen weights together, "local" those of every layer, all of
            which are pruned to the same amount then. A subclass sets it.

    Args:
        amount: In [0, 1): the fraction of all chosen weights, or of each, that is to be zero, exact to one weight.
        start_epoch: The epoch, counted from 0, in which all is pruned, or, with `end_epoch`, the rise begins.
        end_epoch: The epoch in which a gradual rise reaches `amount`. None prunes once.
        schedule: How it rises: "cubic" (Zhu & Gupta 2017), "linear", or "geometric", which prunes the same fraction of
            what is left at every step (Frankle & Carbin 2019). It does not matter without `end_epoch`.
        layers: Globs on qualified names of what to prune. None takes every convolution and linear layer.
        exclude: Globs of what to leave out.
        max_layer_sparsity: In (0, 1]: prune at most this fraction of any layer and take the rest elsewhere.
        every_n_epochs: A gradual rise goes in steps, at every n-th epoch from `start_epoch` on and at `end_epoch`.
        rewind_to: Each time weights are pruned, all others go back to their values at the start of this epoch; 0 are
            the weights that training began with. None goes on with the weights as they are.

    Raises:
        InputError: As `GlobalL1Pruning`.

    Example:
        >>> class SmallestKernels(Pruning):
        ...     def score(self, weights):
        ...         return (weight.abs() * weight.norm() for weight in weights)
        >>> SmallestKernels(0.5, start_epoch=2).amount
        0.5
    """

    scope: ClassVar[Literal["global", "local"]] = "global"

    def __init__(
        self,
        amount: float,
        start_epoch: int = 0,
        end_epoch: int | None = None,
        schedule: str = "cubic",
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        max_layer_sparsity: float | None = None,
        every_n_epochs: int = 1,
        rewind_to: int | None = None,
    ) -> None:
        check_amount(amount)
        check_max_layer_sparsity(max_layer_sparsity)
        check_names("layers", layers)
        check_names("exclude", exclude)
        check_times(start_epoch, end_epoch, schedule, every_n_epochs, rewind_to)
        if self.scope not in ("global", "local"):
            what = f'`scope` of {type(self).__name__} to be "global" or "local"'
            raise expected(what, self.scope, "it is an attribute of the class")
        if self.scope == "local" and max_layer_sparsity is not None:
            what = f"no `max_layer_sparsity` for {type(self).__name__}"
            raise expected(what, max_layer_sparsity, "every layer is pruned to `amount`")
        self.amount = amount
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.schedule = schedule
        self.layers = layers
        self.exclude = exclude
        self.max_layer_sparsity = max_layer_sparsity
        self.every_n_epochs = every_n_epochs
        self.rewind_to = rewind_to
        self._module: LightningModule | None = None
        self._weights: list[WeightRef] = []
        self._reached = 0.0
        self._ever_pruned: dict[str, Tensor] = {}
        # masks that wait for the optimizers: those are to be built on a plain model, whose parameters have plain names
        self._waiting: dict[str, Tensor] = {}
        self._rewinding = Rewinding(rewind_to)

    @abstractmethod
    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights: the lowest are pruned first.

        Called under `torch.no_grad`, and twice each time that a global scope prunes, to the same effect: it changes
        nothing, and draws no random number from a global state. It may be a generator function.

        Args:
            weights: The parameters, with what is pruned at zero, in the order of `self.weights`, which knows their
                names and layers. `weight.grad` is there after a step, but not in a run that has just been resumed.

        Returns:
            For each weight a tensor of its shape, finite where the weight is not pruned.
        """

    @property
    def state_key(self) -> str:
        """Differs between pruners of one trainer, which may not overlap; other arguments may change on resume."""
        layers = None if self.layers is None else as_patterns("layers", self.layers)
        return self._generate_state_key(layers=layers, exclude=as_patterns("exclude", self.exclude))

    @property
    def weights(self) -> list[WeightRef]:
        """The chosen weights of the model in `fit`, or of the last one."""
        return self._weights

    @property
    def ever_pruned(self) -> dict[str, Tensor]:
        """For each layer, by name, what was pruned at any time, also if its masks have been removed since."""
        return self._ever_pruned

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what needs the trainer, and make the model plain until the optimizers are built."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        refuse_averaging(trainer, self, {"WeightAveraging", "StochasticWeightAveraging"})
        if not continues(trainer, pl_module, self._module):
            self._reached = 0.0
            self._ever_pruned = {}
            self._rewinding.reset()
        self._module = pl_module
        self._waiting = {}
        try:
            self._choose(trainer, pl_module)
        except InputError:
            if not builds_late(pl_module):
                raise
            return  # the layers may not be there yet
        self._waiting = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        remove_masks(pl_module, self._weights)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the masks on: those that were there before, or those of the checkpoint."""
        self._choose(trainer, pl_module)
        check_room(self._weights, self.amount, self.max_layer_sparsity)
        self._mask_again(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put masks on that came late: a callback may have restored a checkpoint, as `LearningRateFinder` does."""
        self._mask_again(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put back masks that were still waiting for the optimizers."""
        if trainer.state.fn == "fit":
            self._mask_again(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune if the epoch calls for it."""
        self._rewinding.remember(pl_module, trainer.current_epoch, True, self.amount, type(self).__name__)
        self.catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune if a resumed run has skipped the start of its epoch."""
        self._rewinding.remember(pl_module, trainer.current_epoch, batch_idx == 0, self.amount, type(self).__name__)
        self.catch_up(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values behind the masks at zero where the optimizer does not."""
        if not all(map(keeps_zeros, trainer.optimizers)):
            for ref in self._weights:
                zero_pruned(ref.module)

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune to the sparsity that the current epoch calls for, if that is more than what has been reached.

        The other pruners of the trainer prune with it, so that all have chosen among the trained weights before any
        of them rewinds the model.
        """
        targets = {
            pruner: target
            for pruner in (self, *(other for other in pruners_of(trainer) if other is not self))
            if (target := pruner._target(trainer.current_epoch)) > pruner._reached
        }
        if not targets:
            return
        for pruner, target in targets.items():
            pruner._prune(pl_module, target)
        origins = [pruner._rewinding.take(target, pruner.amount) for pruner, target in targets.items()]
        origin = next((values for values in origins if values is not None), None)
        if origin is not None:
            rewind(pl_module, origin)
        for optimizer in trainer.optimizers:
            if origin is None:
                clear_pruned_state(optimizer, pl_module)
            else:
                clear_state(optimizer)
        for pruner, target in targets.items():
            pruner._reached = target

    def prune(self, model: LightningModule) -> None:
        """Prune a model to `amount` at once, without training and so without rewinding.

        Args:
            model: It keeps its masks.

        Raises:
            InputError: As when `fit` starts and when it prunes.
        """
        self._weights = weight_layers(model, self.layers, self.exclude)
        check_room(self._weights, self.amount, self.max_layer_sparsity)
        self._ever_pruned = {}
        self._prune(model, self.amount)

    def expect_removal(self) -> None:
        """Be ready to prune again, should training go on after an end at which the masks come off."""
        if any(current_mask(ref) is not None for ref in self._weights):
            self._reached = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the masks as packed bits, by layer, the sparsity reached, and the values for rewindings to come."""
        masks = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        return {
            "reached": self._reached,
            "masks": pack_masks(masks | self._waiting),
            "ever_pruned": pack_masks(self._ever_pruned),
            **self._rewinding.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the masks of a checkpoint; they are put on when `fit` starts."""
        self._reached = state_dict["reached"]
        self._waiting = unpack_masks(state_dict["masks"])
        self._ever_pruned = unpack_masks(state_dict["ever_pruned"])
        self._rewinding.load_state_dict(state_dict)

    def _target(self, epoch: int) -> float:
        return sparsity_at(epoch, self.amount, self.start_epoch, self.end_epoch, self.schedule, self.every_n_epochs)

    def _prune(self, model: LightningModule, target: float) -> None:
        if self.scope == "local":
            masks = local_masks(self._weights, target, self.score)
        else:
            masks = global_masks(self._weights, target, self.score, self.max_layer_sparsity)
        apply_masks(model, masks)
        for name, mask in masks.items():
            before = self._ever_pruned.get(name)
            self._ever_pruned[name] = ~mask if before is None else before.to(mask.device) | ~mask

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights = weight_layers(pl_module, self.layers, self.exclude)
        mine = {id(ref.tensor): ref.name for ref in self._weights}
        for other in pruners_of(trainer):
            if other is self:
                continue
            theirs = weight_layers(pl_module, other.layers, other.exclude)
            if shared := [ref.name for ref in theirs if id(ref.tensor) in mine]:
                raise expected(
                    "pruning callbacks that choose different weights",
                    f"two that both choose layer `{shared[0]}`",
                    "separate them with `layers` and `exclude`",
                )
            epochs = {self.rewind_to, other.rewind_to} - {None}
            if len(epochs) > 1:
                raise expected(
                    "pruning callbacks that rewind to one epoch",
                    f"`rewind_to` {self.rewind_to} and {other.rewind_to}",
                    "a rewinding is of the whole model; give both the same, or only one of them any",
                )

    def _mask_again(self, pl_module: LightningModule) -> None:
        waiting, self._waiting = self._waiting, {}
        weights = {ref.name: ref.tensor for ref in self._weights}
        for name, mask in waiting.items():
            if name not in weights or weights[name].shape != mask.shape:
                raise expected(
                    f"the weight of `{name}` to be among the chosen ones, with the shape {tuple(mask.shape)}",
                    f"{tuple(weights[name].shape)}" if name in weights else "no such weight",
                    "resume with the model, `layers` and `exclude` that the checkpoint was made with",
                )
        # a weight that is not zero is not pruned: it was loaded from a checkpoint that knows nothing of these masks
        masks = {name: mask.to(weights[name].device) | (weights[name] != 0) for name, mask in waiting.items()}
        apply_masks(pl_module, masks)
        if masks:
            pruned = sum(int((~mask).count_nonzero()) for mask in masks.values())
            total = sum(weight.numel() for weight in weights.values())
            # those of a denser checkpoint, loaded without our state: what is missing will be pruned again
            if pruned < round(self._reached * total):
                self._reached = pruned / total


def pruners_of(trainer: Trainer) -> list[Pruning]:
    """Return the pruning callbacks of a trainer."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Pruning)]
