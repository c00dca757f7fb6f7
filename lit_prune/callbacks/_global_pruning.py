"""What the pruning callbacks share: when weights are pruned, and how the masks survive."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from lit_prune.callbacks._checks import check_epoch, check_names, refuse_sharded_parameters
from lit_prune.callbacks._fit import builds_late, callbacks_of, continues, refuse_averaging
from lit_prune.errors import InputError, expected
from lit_prune.functional.masking import apply_masks, current_mask, remove_masks, zero_pruned
from lit_prune.functional.optimizer_state import clear_pruned_state, leaves_zeros_alone
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import (
    SCHEDULES,
    Score,
    check_amount,
    check_cap,
    check_room,
    global_masks,
    sparsity_at,
)
from lit_prune.functional.selection import WeightRef, as_patterns, weight_layers

__all__ = ["GlobalPruning"]


class GlobalPruning(Callback):
    """Prunes over all chosen layers together, by any score.

    The masks are on the model; the callback remembers which sparsity it has reached and, before each batch, prunes
    if the epoch calls for more. So it does not matter which hooks a resumed run skips.
    """

    def __init__(
        self,
        score: Score,
        amount: float,
        start_epoch: int,
        end_epoch: int | None,
        schedule: str,
        layers: list[str] | str | None,
        exclude: list[str] | tuple[str, ...] | str,
        max_layer_sparsity: float | None,
    ) -> None:
        check_amount(amount)
        check_cap(max_layer_sparsity)
        check_names("layers", layers)
        check_names("exclude", exclude)
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
            raise expected('`schedule` to be "cubic" or "linear"', schedule, "leave out `end_epoch` to prune once")
        self.amount = amount
        self.start_epoch = start_epoch
        self.end_epoch = end_epoch
        self.schedule = schedule
        self.layers = layers
        self.exclude = exclude
        self.max_layer_sparsity = max_layer_sparsity
        self._score = score
        self._module: LightningModule | None = None
        self._weights: list[WeightRef] = []
        self._reached = 0.0
        self._ever_pruned: dict[str, Tensor] = {}
        # masks that wait for the optimizers: those are to be built on a plain model, whose parameters have plain names
        self._waiting: dict[str, Tensor] = {}

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
        self.catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune if a resumed run has skipped the start of its epoch."""
        self.catch_up(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values behind the masks at zero where the optimizer does not."""
        if not all(map(leaves_zeros_alone, trainer.optimizers)):
            for ref in self._weights:
                zero_pruned(ref.module)

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune to the sparsity that the current epoch calls for, if that is more than what has been reached."""
        target = sparsity_at(trainer.current_epoch, self.amount, self.start_epoch, self.end_epoch, self.schedule)
        if target <= self._reached:
            return
        self._prune(pl_module, target)
        for optimizer in trainer.optimizers:
            clear_pruned_state(optimizer, pl_module)
        self._reached = target

    def prune(self, model: LightningModule) -> None:
        """Prune a model to `amount` at once, without training.

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
        """Return the masks as packed bits, by layer, and the sparsity that has been reached."""
        masks = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        return {
            "reached": self._reached,
            "masks": pack_masks(masks | self._waiting),
            "ever_pruned": pack_masks(self._ever_pruned),
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the masks of a checkpoint; they are put on when `fit` starts."""
        self._reached = state_dict["reached"]
        self._waiting = unpack_masks(state_dict["masks"])
        self._ever_pruned = unpack_masks(state_dict["ever_pruned"])

    def _prune(self, model: LightningModule, target: float) -> None:
        masks = global_masks(self._weights, target, self._score, self.max_layer_sparsity)
        apply_masks(model, masks)
        for name, mask in masks.items():
            before = self._ever_pruned.get(name)
            self._ever_pruned[name] = ~mask if before is None else before.to(mask.device) | ~mask

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights = weight_layers(pl_module, self.layers, self.exclude)
        mine = {id(ref.tensor): ref.name for ref in self._weights}
        for other in callbacks_of(trainer):
            if isinstance(other, GlobalPruning) and other is not self:
                shared = [
                    ref.name for ref in weight_layers(pl_module, other.layers, other.exclude) if id(ref.tensor) in mine
                ]
                if shared:
                    raise expected(
                        "pruning callbacks that choose different weights",
                        f"two that both choose layer `{shared[0]}`",
                        "separate them with `layers` and `exclude`",
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
