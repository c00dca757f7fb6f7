"""Remove masks at an epoch, so that pruned weights train again."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import check_epoch, continues, refuse_sharded_parameters
from lit_prune.callbacks._holding import MaskHolder, mask_averages
from lit_prune.callbacks._pruning import pruners_of
from lit_prune.errors import expected
from lit_prune.functional.masking import adopt_masks, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state


class PruningRemoval(Callback):
    """Remove all masks at an epoch, so that the pruned weights train again, from zero.

    Before the first training batch of the epoch, this does the same as `torch.nn.utils.prune.remove` for every masked
    parameter, and clears the optimizer state of pruned weights. Training a dense network, then a pruned one, then all
    weights again is called dense-sparse-dense training (Han et al., "DSD", 2017). Weights that a pruning callback
    prunes in later epochs are masked again. Nothing is logged.

    Args:
        epoch: Epoch, counted from 0, or "end", which removes the masks when `fit` has finished, after the last
            checkpoint. If the same trainer trains further, its pruning callbacks prune again.

    Raises:
        InputError: At construction, if `epoch` is neither a non-negative integer nor "end"; in `setup`, under
            strategies that shard parameters, except `ModelParallelStrategy`.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from lit_prune.callbacks.pruning import GlobalL1Pruning
        >>> trainer = Trainer(callbacks=[GlobalL1Pruning(0.3), PruningRemoval(epoch=10)], logger=False)
    """

    def __init__(self, epoch: int | str = 0) -> None:
        if epoch != "end":
            if isinstance(epoch, str):
                raise expected('`epoch` to be a non-negative integer or "end"', f"`{epoch}`", "0 is the first epoch")
            check_epoch("epoch", epoch)
        self.epoch = epoch
        self._module: LightningModule | None = None
        self._done = False

    @property
    def state_key(self) -> str:
        """Key in the checkpoint, different for each `PruningRemoval` of a trainer."""
        return self._generate_state_key(epoch=self.epoch)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the trainer."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self, model_parallel=True)
        MaskHolder.add_to(trainer)
        if not continues(trainer, pl_module, self._module):
            self._done = False
        self._module = pl_module

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the masks once epoch `epoch` is reached, unless they have been removed already."""
        self._catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Do the same as `on_train_epoch_start`, which a resumed run may have skipped."""
        self._catch_up(trainer, pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the masks if `epoch` is "end"; checkpoints and averages are complete by now."""
        if self.epoch == "end":
            for pruner in pruners_of(trainer):
                pruner.expect_removal()
            remove_masks(pl_module)
            mask_averages(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return whether the masks have been removed."""
        return {"done": self._done}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore whether the masks have been removed."""
        self._done = state_dict["done"]

    def _catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._done or isinstance(self.epoch, str) or trainer.current_epoch < self.epoch:
            return
        for pruner in pruners_of(trainer):
            pruner.catch_up(trainer, pl_module)
        adopt_masks(pl_module)
        for optimizer in trainer.optimizers:
            clear_pruned_state(optimizer, pl_module)
        remove_masks(pl_module)
        mask_averages(trainer, pl_module)
        self._done = True
