"""When pruned weights may train again."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lit_prune.callbacks._checks import check_epoch, refuse_sharded_parameters
from lit_prune.callbacks._fit import continues, refuse_averaging
from lit_prune.callbacks._pruning import pruners_of
from lit_prune.errors import expected
from lit_prune.functional.masking import remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state

__all__ = ["PruningRemoval"]


class PruningRemoval(Callback):
    """Take all masks off, so that the pruned weights train again, from zero.

    This is `torch.nn.utils.prune.remove` on everything in the model that is masked, by whatever method, before the
    first training batch of an epoch; what an optimizer remembers of the pruned weights is cleared. With
    `GlobalL1Pruning` in the same list it makes dense-sparse-dense training (Han et al., "DSD", 2017) one
    declaration. At one epoch pruning comes first, whatever the order in the list; what a gradual schedule prunes in
    later epochs is masked again. A run that is resumed after the removal stays removed.

    Args:
        epoch: The epoch, counted from 0. "end" takes the masks off when `fit` has ended and every other
            callback has seen the masked model; should the same trainer go on, its pruners prune again.

    Raises:
        InputError: At construction, if `epoch` is neither a whole number from 0 on nor "end"; in `setup`, under
            strategies that shard parameters and beside `WeightAveraging`, whose average would stay masked.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> from lit_prune.callbacks.pruning import GlobalL1Pruning
        >>> trainer = Trainer(callbacks=[GlobalL1Pruning(0.3), PruningRemoval(epoch=10)], logger=False)
    """

    def __init__(self, epoch: int | str = 0) -> None:
        if epoch != "end":
            if isinstance(epoch, str):
                raise expected("`epoch` to be a whole number from 0 on", f"`{epoch}`", 'the end is called "end"')
            check_epoch("epoch", epoch)
        self.epoch = epoch
        self._module: LightningModule | None = None
        self._done = False

    @property
    def state_key(self) -> str:
        """Differs between removals of one trainer."""
        return self._generate_state_key(epoch=self.epoch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check what needs the trainer."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        refuse_averaging(trainer, self, {"WeightAveraging"})
        if not continues(trainer, pl_module, self._module):
            self._done = False
        self._module = pl_module

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the masks off if this is the epoch."""
        self._catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the masks off if a resumed run has skipped the start of the epoch."""
        self._catch_up(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the masks off at the end, if that is when; checkpoints and averages are done by now."""
        if self.epoch == "end":
            for pruner in pruners_of(trainer):
                pruner.expect_removal()
            remove_masks(pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the masks have been taken off."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over whether the masks have been taken off."""
        self._done = state_dict["done"]

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done or isinstance(self.epoch, str) or trainer.current_epoch < self.epoch:
            return
        for pruner in pruners_of(trainer):
            pruner.catch_up(trainer, pl_module)
        for optimizer in trainer.optimizers:
            clear_pruned_state(optimizer, pl_module)
        remove_masks(pl_module)
        self._done = True
