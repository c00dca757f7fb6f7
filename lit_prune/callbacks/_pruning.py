"""`Pruning`, of which all other pruning callbacks are special cases."""

from collections.abc import Iterable, Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._calibration import check_loss, measure, recalibrate
from lit_prune.callbacks._checks import (
    Times,
    callbacks_of,
    check_names,
    continues,
    imported,
    is_model_parallel,
    overrides,
    refuse_sharded_parameters,
)
from lit_prune.callbacks._holding import MaskHolder, gradient_scale, mask_averages, restart_averages
from lit_prune.callbacks._messages import print_choice, warn_of_lost_zeros
from lit_prune.callbacks._rewinding import Rewinding
from lit_prune.errors import InputError, check_integer, expected
from lit_prune.functional.allocation import Allocation, in_proportion, make_allocation
from lit_prune.functional.channels import CoupledChannels, couple_channels
from lit_prune.functional.criteria import Score, make_criterion
from lit_prune.functional.freezing import is_frozen
from lit_prune.functional.masking import adopt_masks, apply_masks, current_mask, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state, clear_state
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import check_amount, check_max_layer_sparsity, check_room, compute_masks
from lit_prune.functional.rewinding import rewind
from lit_prune.functional.schedule import Schedule, check_schedule
from lit_prune.functional.selection import WeightRef, as_patterns, find_weight, weight_layers
from lit_prune.functional.sharding import is_split, like, part_like, reshard
from lit_prune.functional.sparsity import SparsityReport, sparsity_report
from lit_prune.functional.structure import Channel, Structure, make_structure


class Pruning(Callback):
    """Prune weights, once or gradually: a combination of a criterion, a structure, an allocation and a schedule.

    Weights are pruned right before a training batch; with times in epochs, before the first batch of an epoch. Pruned
    weights are exactly zero from then on and stay pruned, whatever the optimizer does, unless a `PruningRemoval`
    removes the masks. `docs/guarantees.md` lists all guarantees. They hold for every custom criterion whose scores
    depend only on weights, its own arguments, and state that it saves in checkpoints. Nothing is logged;
    `SparsityMonitor` logs sparsity.

    Args:
        amount: Fraction of the chosen weights to prune, in [0, 1): exactly `round(amount * N)` of N weights, or as many
            whole groups of the structure as fit into that number.
        criterion: Which weights are least important: "magnitude", "l2" (squared weight), "random", or another name in
            `lit_prune.functional.criteria.CRITERIA`; or a function that takes a list of weights and returns their
            scores. The weights with the lowest scores are pruned first.
        structure: Which weights are pruned together, by the mean of their scores: "weight", "kernel", "channel",
            "block:RxC", or a `Structure`. "N:M", for example "2:4", prunes single weights, and keeps at least N weights
            in each group of M adjacent input channels. Layers that do not consist of whole groups are left dense.
            "channel" prunes a channel in all layers that compute it, with their biases and batch norms, so that
            `lit-prune shrink` (for a `LitResNet18`) or `lit_prune.trained.shrink.remove_channels` can remove it. Layers
            whose channels cannot be removed are left dense; the docstring of `couple_channels` says which these are. To
            find shared channels, `Pruning` traces the model with `example_input_array` or, without one, with the first
            batch. With "channel", `amount` is a fraction of the weights of the layers that are pruned or, with the
            allocation "uniform", of the channels of each of them; every layer keeps a channel.
        allocation: How much of each layer to prune: "global" compares the scores of all layers, "uniform" prunes
            `amount` of each layer, "erk" prunes large layers more (Evci et al., "Rigging the lottery", 2020). A mapping
            from globs to fractions sets the fractions of the matching layers; `amount` applies to all others. A
            function returns the fraction of each layer. In a gradual schedule, the fractions of all layers grow in
            proportion.
        schedule: Sparsity as a function of time between start and end: "cubic" (Zhu & Gupta 2017), "linear", "cosine",
            "geometric", which prunes the same fraction of the remaining weights at every step (Frankle & Carbin 2019),
            "once" or "constant"; or a function of the progress in [0, 1] that returns a fraction of `amount`. Ignored
            without `end_epoch` and `end_step`.
        start_epoch: Epoch, counted from 0, at whose start `amount` is pruned. With `end_epoch`: epoch at which the ramp
            of the sparsity starts from 0.
        end_epoch: Epoch at whose start gradual pruning reaches `amount`. None prunes all at once, at `start_epoch`.
        start_step: Like `start_epoch`, but in optimizer steps, as `trainer.global_step` counts them.
        end_step: Like `end_epoch`, but in optimizer steps.
        every_n_steps: Optimizer steps between two steps of gradual pruning; None means 1.
        layers: Globs on qualified names of layers to prune, for example "backbone.layer4". None prunes all weights
            that `weight_layers` chooses, whatever library their layers come from.
        exclude: Globs of layers not to prune.
        max_layer_sparsity: Largest fraction of a single layer to prune, in (0, 1]; more weights of other layers are
            pruned instead. None sets no limit. Only for the allocations "global" and "erk".
        every_n_epochs: Epochs between two steps of gradual pruning; the last step is at `end_epoch`.
        rewind_to: Epoch, counted from 0. After every pruning step, the model is reset to its values at the start of
            this epoch, except that pruned weights stay zero. None: the model is not reset.
        parameters: Globs on qualified names of parameters to prune, for example "*.pos_embed"; no others are pruned
            then. None prunes the parameters that `weight_layers` defines as weights.
        recalibrate: Number of batches on which the running statistics of batch norms are estimated again after each
            pruning step, unless the model is rewound. 0 leaves them as they are.
        seed: Random seed of the criterion, and of the batches of `recalibrate` and of criteria that need data, an
            integer in [0, 2**32). The global random state is not used.

    Raises:
        InputError: At construction, if an argument cannot be used. When `fit` starts: if a pattern matches nothing,
            if two pruning callbacks choose the same weight or rewind to different epochs, and under strategies that
            shard parameters, except `ModelParallelStrategy` without `rewind_to`. Before the first batch: if the
            checkpoint of a resumed run lacks the values to rewind to. When pruning: if a weight is NaN or infinite.

    Examples:
        >>> pruning = Pruning(0.9, criterion="lamp", schedule="cosine", end_epoch=8)
        >>> def smallest_kernels(weights):
        ...     return (weight.abs() * weight.norm() for weight in weights)
        >>> Pruning(0.5, criterion=smallest_kernels, structure="kernel", allocation={"backbone.fc": 0}).amount
        0.5
    """

    def __init__(
        self,
        amount: float,
        criterion: str | Score = "magnitude",
        structure: str | Structure = "weight",
        allocation: str | dict[str, float] | Allocation = "global",
        schedule: str | Schedule = "cubic",
        start_epoch: int = 0,
        end_epoch: int | None = None,
        start_step: int | None = None,
        end_step: int | None = None,
        every_n_steps: int | None = None,
        layers: list[str] | str | None = None,
        exclude: list[str] | tuple[str, ...] | str = (),
        max_layer_sparsity: float | None = None,
        every_n_epochs: int = 1,
        rewind_to: int | None = None,
        parameters: list[str] | str | None = None,
        recalibrate: int = 0,
        seed: int = 0,
    ) -> None:
        check_amount(amount)
        check_max_layer_sparsity(max_layer_sparsity)
        check_names("layers", layers)
        check_names("exclude", exclude)
        check_names("parameters", parameters)
        # jsonargparse builds objects from class paths, but leaves the path of a function as text
        criterion, structure, allocation, schedule = map(imported, (criterion, structure, allocation, schedule))
        check_schedule(schedule)
        check_integer("seed", seed, 0, 2**32 - 1, hint="the same seed prunes the same weights")
        check_integer("recalibrate", recalibrate, 0, hint="give a number of batches, for example 200")
        self.times = Times.of((start_epoch, end_epoch, every_n_epochs), (start_step, end_step, every_n_steps))
        if rewind_to is not None:
            self.times.check_rewinding(rewind_to, schedule)
        self.amount = amount
        self.criterion: Any = make_criterion(criterion, seed)  # may have more methods than a `Score`
        self.structure = make_structure(structure, amount)
        self.allocation = make_allocation(allocation, amount, max_layer_sparsity)
        self.schedule = schedule
        self.layers = layers
        self.exclude = exclude
        self.max_layer_sparsity = max_layer_sparsity
        self.rewind_to = rewind_to
        self.parameters = parameters
        self.recalibrate = recalibrate
        self.seed = seed
        if hasattr(self.criterion, "redraw") and (self.times.start or self.times.end is not None):
            hint = "leave out the start and the end; trained weights must not be drawn again"
            raise expected(f"to prune once and at the start by {type(self.criterion).__name__}", "a later time", hint)
        self._module: LightningModule | None = None
        self._coupled: CoupledChannels | None = None
        self._dependents: list[WeightRef] = []  # biases and norms that are pruned with channels
        self._ever_pruned: dict[str, Tensor] = {}
        self._weights: list[WeightRef] = []
        # masks of a checkpoint, to apply when `fit` starts
        self._loaded: dict[str, Tensor] | None = None
        self._rewinding = Rewinding(rewind_to)
        self._reset()

    def score(self, weights: Sequence[Tensor]) -> Iterable[Tensor]:
        """Score weights by the criterion; the lowest scores are pruned first. A subclass may override this.

        Called under `torch.no_grad`. An implementation must not use the global random state, and may `yield` one tensor
        of scores at a time.

        Args:
            weights: Parameters, in the order of `self.weights`, which has their names and layers. Pruned weights are
                zero. `weight.grad` is None before the first training step of a new or resumed run.

        Returns:
            For each parameter, a tensor of scores of the same shape, finite wherever the parameter is not pruned yet.
        """
        scores: Iterable[Tensor] = self.criterion(weights)
        return scores

    @property
    def state_key(self) -> str:
        """Key in checkpoints. It contains the choice of weights, which must differ between pruning callbacks."""
        layers = None if self.layers is None else as_patterns("layers", self.layers)
        chosen: dict[str, Any] = {"layers": layers, "exclude": as_patterns("exclude", self.exclude)}
        if self.parameters is not None:
            chosen["parameters"] = as_patterns("parameters", self.parameters)
        return self._generate_state_key(**chosen)

    @property
    def weights(self) -> list[WeightRef]:
        """Chosen weights of the current model."""
        return self._weights

    @property
    def held(self) -> list[WeightRef]:
        """Parameters that this callback masks: the chosen weights, and the biases and norms of pruned channels."""
        return [*self._weights, *self._dependents]

    @property
    def ever_pruned(self) -> dict[str, Tensor]:
        """For each weight, by its name in `weights`, a bool tensor that is true where it was pruned at any time."""
        return self._ever_pruned

    def report(self) -> SparsityReport:
        """Return how many weights of each chosen layer are zero, and how many of them are masked."""
        return sparsity_report(self._weights)

    def choose(self, model: nn.Module) -> list[WeightRef]:
        """Return the weights that this callback prunes in a model, without those that `structure` leaves dense."""
        weights = weight_layers(model, self.layers, self.exclude, self.parameters)
        if self._coupled is not None:
            return [ref for ref in weights if ref.name in self._coupled.weights]
        fitting = [ref for ref in weights if self.structure is None or self.structure.fits(ref.tensor.shape)]
        if not fitting:
            shape = tuple(weights[0].tensor.shape)
            raise expected(
                "a layer that consists of whole groups of `structure`", f"weights such as {shape}", "use smaller groups"
            )
        return fitting

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the trainer and the model, and replace masks of `torch.nn.utils.prune` by masks of lit-prune."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self, model_parallel=True)
        if self.rewind_to is not None and is_model_parallel(trainer):
            hint = 'rewinding needs whole weights; use `strategy="ddp"`'
            raise expected("no `rewind_to` under ModelParallelStrategy", self.rewind_to, hint)
        needs_data, observes = (hasattr(self.criterion, name) for name in ("measure", "observe"))
        if needs_data or observes:
            check_loss(trainer, pl_module, f"the criterion {type(self.criterion).__name__}", copies=needs_data)
        if self.recalibrate:
            check_loss(trainer, pl_module, "`recalibrate`")
        MaskHolder.add_to(trainer)
        self._coupled, self._dependents = None, []
        if not continues(trainer, pl_module, self._module):
            self._reset()
        self._module = pl_module
        try:
            self._choose(trainer, pl_module)
        except InputError:
            # the layers may not exist yet, if the module creates them in one of these hooks, which run after this one
            if not any(overrides(pl_module, hook) for hook in ("setup", "configure_model")):
                raise
            return
        adopt_masks(pl_module)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the weights, and apply the masks of the checkpoint if a run is resumed."""
        self._choose(trainer, pl_module)
        if (example := getattr(pl_module, "example_input_array", None)) is not None:
            self._couple(pl_module, example)
        check_room(self._weights, self.amount, self.max_layer_sparsity, self.structure, self.allocation)
        self._update_masks(trainer, pl_module)
        if self.layers is None and self.parameters is None:
            print_choice(type(self).__name__, pl_module, self._weights)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply masks of a checkpoint that another callback restored, as `LearningRateFinder` does."""
        self._choose(trainer, pl_module)  # another callback may have replaced layers, for example by quantizable ones
        self._update_masks(trainer, pl_module)
        if self.amount:
            end = trainer.estimated_stepping_batches if self.times.unit == "step" else trainer.max_epochs
            last = self.times.start if self.times.end is None else self.times.end
            if end not in (None, -1) and end <= last:
                unit = self.times.unit
                reached = f"{type(self).__name__} reaches `amount` in {unit} {last}, counted from 0"
                rank_zero_info(f"{reached}, but training ends after {end:.0f} {unit}s.")

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune if the schedule sets a higher sparsity for this epoch than has been reached."""
        self._restore_masks(trainer, pl_module)
        self._rewinding.remember(pl_module, trainer.current_epoch, True, self.amount, type(self).__name__)
        self.catch_up(trainer, pl_module)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Prune if pruning is due: with times in steps, or if a resumed run has skipped the start of its epoch."""
        self._restore_masks(trainer, pl_module)
        self._rewinding.remember(pl_module, trainer.current_epoch, batch_idx == 0, self.amount, type(self).__name__)
        if self._waits:
            self._couple(pl_module, batch[0] if isinstance(batch, list | tuple) else batch)
        self.catch_up(trainer, pl_module)

    def on_dense_gradients(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Show weights and gradients to a criterion that follows the training; `MaskHolder` calls this."""
        if not hasattr(self.criterion, "observe") or (scale := gradient_scale(trainer, optimizer)) is None:
            return
        weights = [ref.tensor for ref in self._weights]
        found = [weight.grad for weight in weights]
        for weight, gradient in zip(weights, found, strict=True):
            if gradient is not None:
                weight.grad = None if is_frozen(weight) else gradient if scale == 1 else gradient / scale
        self.criterion.observe([ref.name for ref in self._weights], weights)
        for weight, gradient in zip(weights, found, strict=True):
            weight.grad = gradient

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if `Trainer.validate` loaded weights that are less sparse than this callback's masks."""
        if trainer.state.fn == "validate":
            Pruning.on_test_start(self, trainer, pl_module)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn if the loaded weights are less sparse than this callback's masks."""
        reshard(pl_module)
        warn_of_lost_zeros(type(self).__name__, self._weights)

    on_predict_start = on_test_start

    def catch_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune to the sparsity that the schedule sets for the current epoch or step, unless it is reached already.

        All pruning callbacks of the trainer prune here, so that each of them scores the trained weights before the
        model is rewound.
        """
        targets = {
            pruner: target
            for pruner in (self, *(other for other in pruners_of(trainer) if other is not self))
            if (target := pruner._target(trainer)) > pruner._reached
        }
        if not targets:
            return
        reshard(pl_module)
        for pruner, target in targets.items():
            pruner._prune(pl_module, target, trainer)
        mask_averages(trainer, pl_module)
        origins = [pruner._rewinding.take(target, pruner.amount) for pruner, target in targets.items()]
        origin = next((values for values in origins if values is not None), None)
        if origin is not None:
            rewind(pl_module, origin)
            restart_averages(trainer, pl_module)
        for optimizer in trainer.optimizers:
            if origin is None:
                clear_pruned_state(optimizer, pl_module)
            else:
                clear_state(optimizer)
        for pruner, target in targets.items():
            pruner._reached = target
            pruner._pruned = sparsity_report(pruner._weights).masked
        longest = max(targets, key=lambda pruner: pruner.recalibrate)
        if origin is None and longest.recalibrate:
            recalibrate(trainer, pl_module, longest.recalibrate, longest.seed)

    def prune(self, model: LightningModule) -> None:
        """Prune a model to `amount` without a Trainer; the masks stay on the model.

        To prune channels, the model needs an `example_input_array`.

        Raises:
            InputError: If `layers`, `exclude` or `parameters` match nothing, if `max_layer_sparsity` leaves too few
                weights to prune, if a weight is NaN or infinite, or if the criterion needs data.
        """
        self.select(model)
        check_room(self._weights, self.amount, self.max_layer_sparsity, self.structure, self.allocation)
        self._ever_pruned = {}
        self._prune(model, self.amount)

    def select(self, model: nn.Module) -> None:
        """Set `weights` to those that `prune` prunes in a model; for channels, it needs an `example_input_array`."""
        self._coupled = None
        self._weights = self.choose(model)
        self._couple(model, getattr(model, "example_input_array", None))

    def expect_removal(self) -> None:
        """Make a later `fit` prune again, because a `PruningRemoval` is about to remove the masks."""
        if any(current_mask(ref) is not None for ref in self._weights):
            self._reached = 0.0

    def state_dict(self) -> dict[str, Any]:
        """Return the sparsity reached, masks and ever-pruned weights as packed bits, and the values to rewind to."""
        if self._module is not None:
            reshard(self._module)
        masks = {ref.name: mask for ref in self.held if (mask := current_mask(ref)) is not None}
        return {
            "reached": self._reached,
            "pruned": self._pruned,
            "masks": pack_masks(masks if self._loaded is None else self._loaded),
            "ever_pruned": pack_masks(self._ever_pruned),
            **self._rewinding.state_dict(),
            **({"criterion": self.criterion.state_dict()} if hasattr(self.criterion, "observe") else {}),
        }

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse split tensors (DTensor) in the state of a subclass, because only one process writes the file."""
        for name, value in checkpoint["callbacks"][self.state_key].items():
            if any(map(is_split, value.values() if isinstance(value, dict) else [value])):
                what = f"whole tensors in `{name}`, which {type(self).__name__} saves"
                raise expected(what, "split ones", "save `tensor.full_tensor()`, and split it again on loading")

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; its masks are applied when `fit` starts."""
        self._reached = state_dict["reached"]
        self._pruned = state_dict.get("pruned", 0)  # checkpoints of the first versions do not have it
        self._loaded = unpack_masks(state_dict["masks"])
        self._ever_pruned = unpack_masks(state_dict["ever_pruned"])
        self._rewinding.load_state_dict(state_dict)
        if hasattr(self.criterion, "observe"):
            self.criterion.load_state_dict(state_dict.get("criterion", {}))

    def _reset(self) -> None:
        """Forget everything about the model that was trained before."""
        self._reached = 0.0  # the sparsity that the schedule asked for at the last pruning
        self._pruned = 0  # the number of pruned weights right after that pruning
        self._ever_pruned = {}
        self._loaded = None
        self._rewinding.reset()
        if hasattr(self.criterion, "observe"):
            self.criterion.load_state_dict({})

    def _target(self, trainer: Trainer) -> float:
        return 0.0 if self._waits else self.times.sparsity(self.times.now(trainer), self.amount, self.schedule)

    def _prune(self, model: LightningModule, target: float, trainer: Trainer | None = None) -> None:
        score: Score = self.score
        if hasattr(self.criterion, "measure"):
            if trainer is None:
                hint = "train with this callback, or call `measure` of the criterion and `compute_masks`"
                raise expected("a criterion that needs no data", type(self.criterion).__name__, hint)
            score = measure(trainer, model, self.criterion, self._weights, self.seed)
        allocation = None if self.allocation is None else in_proportion(self.allocation, self.amount)
        structure = self._coupled or self.structure
        masks = compute_masks(self._weights, target, score, structure, allocation, self.max_layer_sparsity)
        if hasattr(self.criterion, "redraw") and all(current_mask(ref) is None for ref in self._weights):
            self.criterion.redraw([ref.tensor for ref in self._weights])
        self._apply(model, masks)

    def _apply(self, model: LightningModule, masks: dict[str, Tensor]) -> None:
        apply_masks(model, masks)
        for name, mask in ((ref.name, masks[ref.name]) for ref in self._weights if ref.name in masks):
            before = self._ever_pruned.get(name)
            # masks from a checkpoint are not split between processes
            before = None if before is None else like(part_like(before.to(mask.device), mask), mask)
            self._ever_pruned[name] = ~mask if before is None else before | ~mask

    @property
    def _waits(self) -> bool:
        """Whether channels have to be found before pruning."""
        return isinstance(self.structure, Channel) and self._coupled is None

    def _couple(self, model: nn.Module, example: Any) -> None:
        """Find the channels that layers share, and choose only weights that compute them."""
        if not isinstance(self.structure, Channel):
            return
        if not isinstance(example, Tensor | tuple | list | dict):
            hint = "set `self.example_input_array` in the module"
            raise expected("an example input, to find the channels that layers share", example, hint)
        self._coupled = couple_channels(model, example, [ref.name for ref in self._weights])
        self._weights = self.choose(model)
        others = (name for name in self._coupled.rows if name not in self._coupled.weights)
        self._dependents = [ref for name in others if (ref := find_weight(model, name)) is not None]

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._weights = self.choose(pl_module)
        mine = {id(ref.tensor): ref.name for ref in self._weights}
        for other in pruners_of(trainer):
            if other is self:
                continue
            if shared := [ref.name for ref in other.choose(pl_module) if id(ref.tensor) in mine]:
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
                    "rewinding resets the whole model; give both callbacks the same epoch, or only one of them",
                )

    def _restore_masks(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the masks of a checkpoint that was loaded within `fit`, as `LearningRateFinder` does at milestones."""
        if self._loaded is not None:
            self._update_masks(trainer, pl_module)

    def _update_masks(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Apply the masks of a checkpoint; without one, unmask weights that were loaded as non-zero values."""
        reshard(pl_module)
        loaded, self._loaded = self._loaded, None
        if self._waits and loaded:  # the first batch is not there yet
            chosen = {ref.name for ref in self._weights}
            others = (find_weight(pl_module, name) for name in loaded if name not in chosen)
            self._dependents = [ref for ref in others if ref is not None]
        tensors = {ref.name: ref.tensor for ref in self.held}
        kept = {ref.name: mask for ref in self.held if (mask := current_mask(ref)) is not None}
        masks = {name: mask | (tensors[name] != 0) for name, mask in kept.items()}
        if loaded is not None:
            apply_masks(pl_module, masks)  # so that `remove_masks` leaves the loaded weights as they are
            remove_masks(pl_module, self.held)
            masks = loaded
        for name, mask in masks.items():
            if name not in tensors or tensors[name].shape != mask.shape:
                raise expected(
                    f"to prune the weight of `{name}`, of shape {tuple(mask.shape)}, as in the checkpoint",
                    f"shape {tuple(tensors[name].shape)}"
                    if name in tensors
                    else "no such weight among the chosen ones",
                    "resume with the same model, `layers` and `exclude`",
                )
        apply_masks(pl_module, masks)
        mask_averages(trainer, pl_module)
        if masks:
            report = sparsity_report(self._weights)
            if report.masked < self._pruned:  # prune again
                self._reached = report.masked / report.weights


def pruners_of(trainer: Trainer) -> list[Pruning]:
    """Return the pruning callbacks of a trainer."""
    return [callback for callback in callbacks_of(trainer) if isinstance(callback, Pruning)]
