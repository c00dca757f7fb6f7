"""Base of the pruning callbacks: when weights are pruned, and how masks are kept."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_prune.callbacks._checks import (
    callbacks_of,
    check_names,
    check_times,
    continues,
    overrides,
    refuse_averaging,
    refuse_sharded_parameters,
)
from lit_prune.callbacks._rewinding import Rewinding
from lit_prune.errors import InputError, expected
from lit_prune.functional.masking import apply_masks, current_mask, remove_masks, zero_pruned
from lit_prune.functional.optimizer_state import clear_pruned_state, clear_state, keeps_zeros
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import check_amount, check_max_layer_sparsity, check_room, global_masks, local_masks
from lit_prune.functional.rewinding import rewind
from lit_prune.functional.schedule import sparsity_at
from lit_prune.functional.selection import WeightRef, as_patterns, weight_layers


class Pruning(Callback, ABC):
    """Base class for your own pruning criterion: define `score` and inherit everything else.

    The guarantees of `docs/callbacks.md` hold for every subclass whose `score` depends only on weights, arguments, and
    what its `state_dict` holds.

    The masks are on the model. Before each batch, the callback compares the sparsity that it has reached with the
    schedule and prunes if needed, so it does not depend on hooks that a resumed run may skip.

    Attributes:
        scope: "global" prunes the lowest scores of all chosen weights, "local" the lowest scores of each layer, the
            same fraction in all layers. A subclass sets it.

    Args:
        amount: Fraction of the chosen weights to prune, in [0, 1), exact to one weight.
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
            raise expected(what, self.scope, "set the attribute of the class")
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
        # masks to apply when optimizers exist: those must see an unmasked model, whose parameters have plain names
        self._waiting: dict[str, Tensor] = {}
        self._rewinding = Rewinding(rewind_to)

    @abstractmethod
    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights; the lowest scores are pruned first.

        It runs under `torch.no_grad`, twice for each global pruning, so it must be pure and must not use the global
        random state. It may be a generator function.

        Args:
            weights: Parameters, in the order of `self.weights`, which has their names and layers. Pruned weights are
                zero. `weight.grad` is set after a training step, but not in a run that has just been resumed.

        Returns:
            For each weight a tensor of its shape, finite where the weight is not pruned.
        """

    @property
    def state_key(self) -> str:
        """Key that depends on the chosen layers, which pruners of one trainer may not share, and on nothing else."""
        layers = None if self.layers is None else as_patterns("layers", self.layers)
        return self._generate_state_key(layers=layers, exclude=as_patterns("exclude", self.exclude))

    @property
    def weights(self) -> list[WeightRef]:
        """Chosen weights of the current model."""
        return self._weights

    @property
    def ever_pruned(self) -> dict[str, Tensor]:
        """For each layer, by name, a bool tensor: true for weights that have been pruned at any time."""
        return self._ever_pruned

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the trainer, and remove masks until the optimizers exist."""
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
            # these hooks of the module, which run later, may create layers
            if not any(overrides(pl_module, hook) for hook in ("setup", "configure_model")):
                raise
            return
        self._waiting = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        remove_masks(pl_module, self._weights)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the masks that the model had before, or those of the checkpoint."""
        self._choose(trainer, pl_module)
        check_room(self._weights, self.amount, self.max_layer_sparsity)
        self._mask_again(pl_module)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply masks of a checkpoint that another callback restored, as `LearningRateFinder` does."""
        self._mask_again(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Apply masks that were removed until the optimizers exist."""
        if trainer.state.fn == "fit":
            self._mask_again(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune if the schedule says so."""
        self._rewinding.remember(pl_module, trainer.current_epoch, True, self.amount, type(self).__name__)
        self.catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune if a resumed run has skipped the start of its epoch."""
        self._rewinding.remember(pl_module, trainer.current_epoch, batch_idx == 0, self.amount, type(self).__name__)
        self.catch_up(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Reset masked values to zero if an optimizer may have changed them."""
        if not all(map(keeps_zeros, trainer.optimizers)):
            for ref in self._weights:
                zero_pruned(ref.module)

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune to the sparsity of the current epoch, if that is more than has been reached.

        All pruners of the trainer prune at once, so that each scores the trained weights before one of them rewinds the
        model.
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
        """Prune a model to `amount` without a Trainer; the masks stay on the model.

        Raises:
            InputError: If `layers` or `exclude` match nothing, if `max_layer_sparsity` leaves too few weights to prune,
                or if a weight is NaN or infinite.
        """
        self._weights = weight_layers(model, self.layers, self.exclude)
        check_room(self._weights, self.amount, self.max_layer_sparsity)
        self._ever_pruned = {}
        self._prune(model, self.amount)

    def expect_removal(self) -> None:
        """Prepare to prune again if training continues after the masks were removed at the end."""
        if any(current_mask(ref) is not None for ref in self._weights):
            self._reached = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the sparsity reached, masks as packed bits by layer, and the values to rewind to."""
        masks = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        return {
            "reached": self._reached,
            "masks": pack_masks(masks | self._waiting),
            "ever_pruned": pack_masks(self._ever_pruned),
            **self._rewinding.state_dict(),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; its masks are applied when `fit` starts."""
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
                    f"two that choose layer `{shared[0]}`",
                    "separate them with `layers` and `exclude`",
                )
            epochs = {self.rewind_to, other.rewind_to} - {None}
            if len(epochs) > 1:
                raise expected(
                    "pruning callbacks that rewind to the same epoch",
                    f"`rewind_to` {self.rewind_to} and {other.rewind_to}",
                    "rewinding resets the whole model; give the same epoch to both, or give only one",
                )

    def _mask_again(self, pl_module: LightningModule) -> None:
        waiting, self._waiting = self._waiting, {}
        weights = {ref.name: ref.tensor for ref in self._weights}
        for name, mask in waiting.items():
            if name not in weights or weights[name].shape != mask.shape:
                raise expected(
                    f"to prune the weight of `{name}`, of shape {tuple(mask.shape)}, as in the checkpoint",
                    f"shape {tuple(weights[name].shape)}"
                    if name in weights
                    else "no such weight among the chosen ones",
                    "resume with the same model, `layers` and `exclude`",
                )
        # non-zero weights are not masked: they were loaded from a checkpoint without these masks
        masks = {name: mask.to(weights[name].device) | (weights[name] != 0) for name, mask in waiting.items()}
        apply_masks(pl_module, masks)
        if masks:
            pruned = sum(int((~mask).count_nonzero()) for mask in masks.values())
            total = sum(weight.numel() for weight in weights.values())
            # if the weights of a denser checkpoint were loaded without this state, they are pruned again
            if pruned < round(self._reached * total):
                self._reached = pruned / total


def pruners_of(trainer: Trainer) -> list[Pruning]:
    """Return the pruning callbacks of a trainer."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Pruning)]
