"""Train a sparse network whose masks change: SET, RigL and AC/DC."""

from collections.abc import Iterable, Sequence
from math import inf
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from lit_prune.callbacks._checks import base_names, callbacks_of, check_epoch
from lit_prune.callbacks._holding import gradient_scale, mask_averages
from lit_prune.callbacks._pruning import Pruning
from lit_prune.errors import check_integer, expected
from lit_prune.functional.allocation import Allocation
from lit_prune.functional.criteria import RandomScore, Score
from lit_prune.functional.freezing import is_frozen
from lit_prune.functional.masking import apply_masks, current_mask, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state
from lit_prune.functional.regrowth import drop_fraction_at, regrow_masks
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sharding import like, local, part_like, reshard, whole

_END = 0.75  # part of the training after which masks stay as they are (Evci et al. 2020)


class SET(Pruning):
    """Sparse evolutionary training: prune at random, then repeatedly prune small weights and grow others at random.

    Sparse evolutionary training is by Mocanu et al., "Scalable training of artificial neural networks with adaptive
    sparse connectivity", 2018. Every `every_n_steps` optimizer steps, a fraction of the weights of each layer that are
    not pruned is pruned by magnitude, and as many pruned weights grow. The sparsity of each layer never changes. Grown
    weights and their optimizer state start at zero. Masks change during the first three quarters of the training; each
    change replaces a smaller fraction than the one before. Frozen and dense layers stay as they are. Nothing is logged.

    Args:
        amount: Fraction of the chosen weights to prune, in [0, 1).
        every_n_steps: Optimizer steps, as `trainer.global_step` counts them, between two changes of the masks.
        drop_fraction: Fraction of each layer's kept weights to replace, in (0, 1), at the start of training. It falls
            along a cosine to 0 at `end_step`.
        end_step: Optimizer step from which the masks stay as they are. None: three quarters of the training.
        allocation: How much of each layer to prune, as in `Pruning`.
        layers: Globs on qualified names of layers to prune; None prunes all that `weight_layers` chooses.
        exclude: Globs of layers not to prune.
        max_layer_sparsity: Largest fraction of a single layer to prune, as in `Pruning`.
        parameters: Globs on qualified names of parameters to prune, as in `Pruning`.
        seed: Random seed of the first masks and of the weights that grow, an integer in [0, 2**32).

    Raises:
        InputError: As `Pruning` does; when training starts, if its number of steps is unknown and `end_step` is None.

    Examples:
        >>> SET(0.9, every_n_steps=200, exclude="head").amount
        0.9
    """

    _changes: int  # how many changes of the masks were due so far

    def __init__(
        self,
        amount: float,
        every_n_steps: int = 100,
        drop_fraction: float = 0.3,
        end_step: int | None = None,
        allocation: str | dict[str, float] | Allocation = "erk",
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        max_layer_sparsity: float | None = None,
        parameters: list[str] | str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(
            amount,
            criterion="random",
            allocation=allocation,
            layers=layers,
            exclude=exclude,
            max_layer_sparsity=max_layer_sparsity,
            parameters=parameters,
            seed=seed,
        )
        check_integer("every_n_steps", every_n_steps, 1, hint="give the optimizer steps between two changes of masks")
        if not isinstance(drop_fraction, int | float) or not 0 < drop_fraction < 1:
            raise expected("`drop_fraction` in (0, 1)", drop_fraction, "0.3 replaces 30% of the weights at first")
        if end_step is not None:
            check_integer("end_step", end_step, 0, hint="steps are counted from 0, as in Lightning")
        self.every_n_steps = every_n_steps
        self.drop_fraction = drop_fraction
        self.end_step = end_step
        self._end = inf

    def grow(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights; in each layer, the pruned ones with the highest scores grow. A subclass may override this."""
        return RandomScore(self.seed + self._changes)(weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Determine the optimizer step from which the masks no longer change."""
        super().on_train_start(trainer, pl_module)
        self._end = _END * _steps(trainer, pl_module) if self.end_step is None else self.end_step
        if not 0 <= self._end < inf:
            what = f"`end_step` for {type(self).__name__}"
            hint = "give the optimizer step, as counted by `trainer.global_step`, from which masks stay as they are"
            raise expected(what, "None and a training of unknown length", hint)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune at the start, and change the masks when a change is due."""
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        changes = trainer.global_step // self.every_n_steps
        if changes <= self._changes or trainer.global_step >= self._end:
            return
        self._changes = changes
        reshard(pl_module)
        if not (weights := self._changing()):
            return
        fraction = drop_fraction_at(trainer.global_step / self._end, self.drop_fraction)
        kept, masks = regrow_masks(weights, fraction, self.grow)
        apply_masks(pl_module, kept)
        for optimizer in trainer.optimizers:
            clear_pruned_state(optimizer, pl_module)
        self._apply(pl_module, masks)
        mask_averages(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `Pruning`, and how many changes of the masks were due."""
        return {**super().state_dict(), "changes": self._changes}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._changes = state_dict["changes"]

    def _reset(self) -> None:
        super()._reset()
        self._changes = 0

    def _changing(self) -> list[WeightRef]:
        """Return the weights whose masks change: those that train, unless a `PruningRemoval` has removed the masks."""
        return [ref for ref in self._weights if not is_frozen(ref.tensor) and current_mask(ref) is not None]


class RigL(SET):
    """Train a sparse network, and replace its smallest weights by those with the largest gradients.

    RigL is by Evci et al., "Rigging the lottery: Making all tickets winners", 2020. Everything is as in `SET`, except
    for the choice of the weights that grow: RigL sums the gradients of all weights, including pruned ones, before
    clipping, over the optimizer steps since the last change of the masks. The pruned weights with the largest absolute
    sums grow. The sums need as much memory as the weights, and are saved in checkpoints until the masks change for the
    last time.

    Arguments and errors are those of `SET`. Models with manual optimization are refused; use `SET` for them.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=RigL(0.9, every_n_steps=100), max_epochs=100, logger=False)
    """

    _sums: dict[str, Tensor]  # of gradients, by layer; split as the weights are, except those of a checkpoint

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the trainer and the model; refuse manual optimization."""
        if stage == "fit" and not pl_module.automatic_optimization:
            hint = "gradients of pruned weights are not known there; use `SET`"
            raise expected("automatic optimization with RigL", "manual optimization", hint)
        super().setup(trainer, pl_module, stage)

    def grow(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by the absolute sum of their gradients since the last change of the masks."""
        names = {id(ref.tensor): ref.name for ref in self._weights}
        for weight in weights:
            yield self._sums[names[id(weight)]].to(weight.device).abs()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune at the start, and change the masks when a change is due."""
        before = self._changes
        super().on_train_batch_start(trainer, pl_module, batch, batch_idx)
        if self._changes > before:
            self._sums = {}

    def on_dense_gradients(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Add the gradients of this step, which are not masked yet; `MaskHolder` calls this."""
        next_change = (trainer.global_step // self.every_n_steps + 1) * self.every_n_steps
        weights = super()._changing()
        if next_change >= self._end or not weights:
            self._sums = {}
            return
        if (scale := gradient_scale(trainer, optimizer)) is None:
            return
        for ref in weights:
            if (gradient := ref.tensor.grad) is None:
                continue
            wide = local(gradient).to(torch.promote_types(gradient.dtype, torch.float32))
            past = self._sums.get(ref.name)
            total = torch.zeros_like(wide) if past is None else part_like(past.to(wide.device), ref.tensor)
            self._sums[ref.name] = like(total.add_(wide, alpha=1 / scale), ref.tensor)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of `SET`, and the sums of gradients."""
        return {**super().state_dict(), "sums": {name: whole(total) for name, total in self._sums.items()}}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        super().load_state_dict(state_dict)
        self._sums = dict(state_dict["sums"])

    def _reset(self) -> None:
        super()._reset()
        self._sums = {}

    def _changing(self) -> list[WeightRef]:
        """Return the weights whose masks change; those without a gradient, for example just thawed ones, do not."""
        return [ref for ref in super()._changing() if ref.name in self._sums]


class ACDC(Pruning):
    """Alternating compressed/decompressed training: dense and sparse phases alternate, and the last one is sparse.

    AC/DC is by Peste et al., "AC/DC: Alternating compressed/decompressed training of deep neural networks", 2021. Each
    sparse phase prunes again. When a dense phase starts, the masks are removed: pruned weights and their optimizer
    state start at zero. A dense phase starts only if a sparse phase of at least `phase_epochs` can follow it before
    the trainer reaches `max_epochs` or `max_steps`, so the last sparse phase may be longer. Nothing is logged;
    `SparsityMonitor` logs sparsity.

    Args:
        amount: Fraction of the chosen weights to prune in sparse phases, in [0, 1).
        start_epoch: Epoch, counted from 0, at which the first sparse phase starts, after dense training.
        phase_epochs: Epochs of a phase.
        criterion: As in `Pruning`.
        structure: As in `Pruning`. With "channel", the same channels are pruned in every sparse phase if a ReLU follows
            them: a channel that is zero in all its layers then receives no gradient.
        allocation: As in `Pruning`.
        layers: As in `Pruning`.
        exclude: As in `Pruning`.
        max_layer_sparsity: As in `Pruning`.
        parameters: As in `Pruning`.
        seed: As in `Pruning`.

    Raises:
        InputError: As `Pruning` does; when training starts, if the trainer has no `max_epochs`.

    Warns:
        UserWarning: If training ends in a dense phase, for example because `EarlyStopping` or `max_time` stops it.

    Examples:
        >>> ACDC(0.9, start_epoch=10, phase_epochs=5).phase_epochs
        5
    """

    def __init__(
        self,
        amount: float,
        start_epoch: int = 1,
        phase_epochs: int = 5,
        criterion: str | Score = "magnitude",
        structure: Any = "weight",
        allocation: str | dict[str, float] | Allocation = "global",
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        max_layer_sparsity: float | None = None,
        parameters: list[str] | str | None = None,
        seed: int = 0,
    ) -> None:
        check_epoch("start_epoch", start_epoch)
        check_integer("phase_epochs", phase_epochs, 1, hint="give the number of epochs of each phase")
        super().__init__(
            amount,
            criterion,
            structure,
            allocation,
            start_epoch=start_epoch,
            layers=layers,
            exclude=exclude,
            max_layer_sparsity=max_layer_sparsity,
            parameters=parameters,
            seed=seed,
        )
        self.phase_epochs = phase_epochs

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check that the trainer says when training ends."""
        super().on_train_start(trainer, pl_module)
        if trainer.max_epochs in (None, -1):
            what = "`max_epochs` with ACDC, so that training ends in a sparse phase"
            raise expected(what, "no limit", "give `max_epochs` to the trainer")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the network is dense, for example because `EarlyStopping` ended training."""
        if self._ever_pruned and not self._reached:
            rank_zero_warn("Training stopped in a dense phase of ACDC. HINT: resume it until a sparse phase ends.")

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remove the masks at the start of a dense phase; prune at the start of a sparse one."""
        if self._reached and not self._target(trainer):
            reshard(pl_module)
            for optimizer in trainer.optimizers:
                clear_pruned_state(optimizer, pl_module)
            remove_masks(pl_module, self.held)
            mask_averages(trainer, pl_module)
            self._reached = 0.0
        super().catch_up(trainer, pl_module)

    def _target(self, trainer: Trainer) -> float:
        if self._waits:
            return self._reached
        last: Any = trainer.max_epochs
        if trainer.max_steps != -1:  # rounding up, without converting an infinite number of batches to an integer
            last = min(last, trainer.max_steps // -(-trainer.num_training_batches // trainer.accumulate_grad_batches))
        phase, into = divmod(trainer.current_epoch - self.times.start, self.phase_epochs)
        dense = phase % 2 == 1 and trainer.current_epoch - into + 2 * self.phase_epochs <= last
        return 0.0 if phase < 0 or dense else self.amount


def _steps(trainer: Trainer, pl_module: LightningModule) -> float:
    """Return the number of optimizer steps of a training, infinite or negative if it is unknown."""
    if not pl_module.automatic_optimization or any(
        "GradientAccumulationScheduler" in base_names(callback) for callback in callbacks_of(trainer)
    ):
        return inf
    return trainer.estimated_stepping_batches
