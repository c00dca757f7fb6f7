"""Log the sparsity of a model, and the fraction of its weights that have received no gradient."""

from functools import partial
from itertools import chain
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._checks import base_names, continues, is_model_parallel, refuse_sharded_parameters
from lit_prune.callbacks._drawing import draw_histograms, draw_masks, draw_sparsity
from lit_prune.callbacks._holding import MaskHolder
from lit_prune.callbacks._pruning import Pruning, pruners_of
from lit_prune.errors import InputError, check_integer, expected
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.masking import current_mask
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.functional.sharding import Split, local, part_like, reshard
from lit_prune.functional.sparsity import SparsityReport, sparsity_report
from lit_prune.functional.step_hooks import hookable


class SparsityMonitor(Callback):
    """Log how sparse a model is and what fraction of its weights have received no gradient, to any logger.

    The chosen weights are those of the trainer's pruning callbacks or, without a pruning callback, all weights that
    `weight_layers` chooses. Logged at the end of training epochs, as fractions of all chosen weights unless stated
    otherwise:

    - `sparsity/global`: weights that are exactly zero.
    - `sparsity/masked`: weights that a mask holds at zero.
    - `sparsity/ever_pruned`: weights that the pruning callbacks have pruned at any time.
    - `sparsity/regrown`: fraction of the ever-pruned weights that are not zero now.
    - `mask/changed`: weights that have been masked or unmasked since the previous log; at first, since the network was
      dense. With a constant sparsity s, consecutive masks share `1 - changed / (2 (1 - s))` of the weights they keep.
    - `sparsity/layer/<name>`: fraction of a layer's weights that are exactly zero.
    - `gradient/untouched`: weights that have not received a non-zero gradient since training started. Gradients are
      read after steps 0, 1, 2, 4, 8, ..., after every 64th step, and after each epoch; gradients of other steps show in
      the momentum and running averages that an optimizer keeps. So the value is exact for torch's optimizers with such
      averages. It is an upper bound for other optimizers, such as SGD without momentum, and for all optimizers that add
      weight decay to the gradient. Gradients of layers that `LayerFreezing` freezes do not count.
    - `gradient/untouched_pruned`: weights that have been pruned at any time and have not received a non-zero gradient.
      They are still zero, so sparsity is at least this fraction.

    A `TensorBoardLogger` also receives the figure `sparsity/layers` and, if chosen, masks and histograms, with the
    epoch as step. A resumed run continues with the counts and masks in its checkpoint.

    Args:
        every_n_epochs: Epochs between two logs.
        per_layer: Whether to log the sparsity of each layer and draw the figure.
        histograms: Whether to draw histograms of each layer's weights, `weights/<name>`, and of its non-zero weights,
            `weights_nonzero/<name>`.
        gradient_coverage: Whether to log the `gradient/` metrics, which needs one byte of memory for each weight.
        masks: Whether to draw the masks of all layers, `masks/layers`, with a slider for the epoch in TensorBoard.

    Raises:
        InputError: At construction, if `every_n_epochs` is not a positive integer; in `setup`, under strategies that
            shard parameters, except `ModelParallelStrategy` without `histograms` and `masks`; when `fit` starts, if
            there is no weight to watch.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        per_layer: bool = True,
        histograms: bool = False,
        gradient_coverage: bool = True,
        masks: bool = False,
    ) -> None:
        check_integer("every_n_epochs", every_n_epochs, 1, hint="1 logs every epoch")
        self.every_n_epochs = every_n_epochs
        self.per_layer = per_layer
        self.histograms = histograms
        self.gradient_coverage = gradient_coverage
        self.masks = masks
        self._module: LightningModule | None = None
        self._weights: list[WeightRef] = []
        self._pruners: list[Pruning] = []
        self._coverage: GradientCoverage | None = None
        self._touched: dict[str, Tensor] = {}
        self._steps: list[int] = []
        self._seen: dict[str, Tensor] = {}  # masks at the previous log
        self._ended = -1  # the last epoch whose end was seen
        self._handles: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """Key in the checkpoint, different for each monitor of a trainer."""
        return self._generate_state_key(
            every_n_epochs=self.every_n_epochs,
            per_layer=self.per_layer,
            histograms=self.histograms,
            gradient_coverage=self.gradient_coverage,
            masks=self.masks,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the trainer, and reset the counts unless the trainer continues with the same model."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self, model_parallel=True)
        MaskHolder.add_to(trainer)  # the model may have been masked before
        for name in ("histograms", "masks"):
            if getattr(self, name) and is_model_parallel(trainer):
                hint = f"drawing needs whole weights in one process; leave `{name}` out"
                raise expected(f"no `{name}` under ModelParallelStrategy", True, hint)
        if not continues(trainer, pl_module, self._module):
            self._touched, self._steps, self._seen, self._ended = {}, [], {}, -1
        elif self._coverage is not None:
            self._touched = self._coverage.touched()
        self._module, self._coverage = pl_module, None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the weights, after other callbacks may have replaced layers, and start to watch their gradients."""
        self._choose(trainer, pl_module)
        # a run that is resumed from the last batch of an epoch skips the end of the epoch
        if trainer.current_epoch > self._ended + 1 and trainer.current_epoch % self.every_n_epochs == 0:
            self._find_changes()
        if self.gradient_coverage:
            self._coverage = GradientCoverage(self._weights)
            if self._touched:
                self._coverage.restore(self._touched)
                self._touched = {}
            self._steps += [0] * (len(trainer.optimizers) - len(self._steps))
            # after the step, because other callbacks may change gradients before it
            self._handles = [
                hookable(optimizer).register_step_post_hook(partial(self._sample, index))
                for index, optimizer in enumerate(trainer.optimizers)
            ]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the metrics, and draw them to TensorBoard."""
        self._ended = trainer.current_epoch
        reshard(pl_module)
        if self._coverage is not None:
            # in every epoch, because pruning clears the averages in optimizers
            self._coverage.update(trainer.optimizers)
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        report = sparsity_report(self._weights)
        changed = self._find_changes()
        metrics = self._metrics(report) | {"mask/changed": self._sum(changed) / report.weights}
        # all processes have the same values; unlike a mean, the maximum reproduces them without rounding
        pl_module.log_dict(metrics, reduce_fx="max", sync_dist=True)
        loggers: list[Any] = trainer.loggers
        for logger in loggers:
            if trainer.is_global_zero and "TensorBoardLogger" in base_names(logger):
                if self.per_layer:
                    draw_sparsity(logger.experiment, report, trainer.current_epoch)
                if self.histograms:
                    draw_histograms(logger.experiment, self._weights, trainer.current_epoch)
                if self.masks:
                    shapes = {ref.name: ref.tensor.shape for ref in self._weights}
                    draw_masks(logger.experiment, self._seen, changed, shapes, trainer.current_epoch)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Return the `sparsity/` metrics of a model, by name, without training it."""
        self._choose(trainer, pl_module)
        self._coverage = None
        return self._metrics(sparsity_report(self._weights))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks of optimizers."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Remove the hooks of optimizers."""
        self.teardown(trainer, pl_module, "fit")

    def state_dict(self) -> dict[str, Any]:
        """Return which weights have received a gradient and the masks, as packed bits, and each optimizer's steps."""
        touched = self._touched if self._coverage is None else self._coverage.touched()
        return {
            "touched": pack_masks(touched),
            "steps": list(self._steps),
            "seen": pack_masks(self._seen),
            "ended": self._ended,
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state of a checkpoint; it is used when `fit` starts."""
        self._touched = unpack_masks(state_dict["touched"])
        self._steps = list(state_dict["steps"])
        self._seen = unpack_masks(state_dict.get("seen", {}))
        self._ended = state_dict.get("ended", -1)

    def _find_changes(self) -> dict[str, Tensor]:
        """Store the masks; return by weight which elements of this process's part changed since the last log."""
        before = self._seen
        self._seen = {ref.name: mask for ref in self._weights if (mask := current_mask(ref)) is not None}
        changes = {}
        for ref in self._weights:
            old, new = (
                None if mask is None else part_like(mask.to(ref.tensor.device), ref.tensor)
                for mask in (before.get(ref.name), self._seen.get(ref.name))
            )
            if old is not None and new is not None:
                changes[ref.name] = old ^ new
            elif (only := new if old is None else old) is not None:
                changes[ref.name] = ~only  # without a mask, all weights are kept
        return changes

    def _sum(self, changes: dict[str, Tensor]) -> int:
        """Count the true values of all processes."""
        refs = [ref for ref in self._weights if ref.name in changes]
        split = Split([ref.tensor for ref in refs])
        return sum(split.sums_by_weight([int(changes[ref.name].count_nonzero()) for ref in refs]))

    def _sample(self, index: int, optimizer: Optimizer, *_: Any) -> None:
        if self._coverage is not None and _is_sampled(self._steps[index]):
            self._coverage.update([optimizer])
        self._steps[index] += 1

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pruners = pruners_of(trainer)
        chosen = [pruner.choose(pl_module) for pruner in self._pruners]
        try:
            self._weights = list(chain.from_iterable(chosen)) or weight_layers(pl_module)
        except InputError as error:
            hint = "To choose which weights SparsityMonitor measures, add `GlobalL1Pruning(0, exclude=...)`."
            raise InputError(f"{error} {hint}") from error

    def _metrics(self, report: SparsityReport) -> dict[str, float]:
        metrics = {"sparsity/global": report.sparsity, "sparsity/masked": report.masked / report.weights}
        metrics |= self._pruned_metrics()
        if self.per_layer:
            metrics |= {f"sparsity/layer/{layer.name}": layer.sparsity for layer in report.layers}
        if self._coverage is not None:
            metrics["gradient/untouched"] = self._coverage.untouched
        return metrics

    def _pruned_metrics(self) -> dict[str, float]:
        """Return metrics of the weights that were pruned at any time."""
        pruned = {name: mask for pruner in self._pruners for name, mask in pruner.ever_pruned.items()}
        touched = {} if self._coverage is None else self._coverage.touched()
        refs = [ref for ref in self._weights if ref.name in pruned]
        masks = [part_like(pruned[ref.name].to(ref.tensor.device), ref.tensor) for ref in refs]
        counts: list[int] = []
        for ref, mask in zip(refs, masks, strict=True):
            weight = local(getattr(ref.module, ref.parameter))
            missed = mask & ~local(touched[ref.name]) if touched else mask[:0]
            counts += [int(values.count_nonzero()) for values in (mask, weight[mask], missed)]
        split = Split([ref.tensor for ref in refs for _ in range(3)])
        sums = split.sums_by_weight(counts)
        ever, alive, untouched = (sum(sums[kind::3]) for kind in range(3))
        total = sum(ref.tensor.numel() for ref in self._weights)
        metrics = {"sparsity/ever_pruned": ever / total, "sparsity/regrown": alive / ever if ever else 0.0}
        return metrics | ({"gradient/untouched_pruned": untouched / total} if touched else {})


def _is_sampled(step: int) -> bool:
    return step & (step - 1) == 0 or step % 64 == 0
