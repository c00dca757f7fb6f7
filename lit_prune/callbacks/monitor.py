"""What is logged about sparsity."""

from functools import partial
from itertools import chain
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from lit_prune.callbacks._checks import refuse_sharded_parameters
from lit_prune.callbacks._fit import continues
from lit_prune.callbacks._pruning import Pruning, pruners_of
from lit_prune.callbacks._sparsity_board import draw_histograms, draw_sparsity
from lit_prune.errors import expected
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.functional.sparsity import SparsityReport, sparsity_report

__all__ = ["SparsityMonitor"]


class SparsityMonitor(Callback):
    """Log how sparse a model is and whether its weights can learn, to any logger.

    The chosen weights are those of the pruning callbacks of the same trainer or, without any, of every convolution and
    linear layer. Logged at the end of training epochs, all fractions in [0, 1]:

    - `sparsity/global`: of the chosen weights, those that are exactly zero.
    - `sparsity/masked`: of the chosen weights, those that a mask holds at zero.
    - `sparsity/ever_pruned`: of the chosen weights, those that these callbacks have pruned at any time.
    - `sparsity/regrown`: of the weights that these callbacks have ever pruned, those that are not zero now.
    - `sparsity/layer/<name>`: of a layer's weights, those that are exactly zero.
    - `gradient/untouched`: of the chosen weights, those that have not received one non-zero gradient since training
      began; gradients that `LayerFreezing` drops are not received. To cost far less than 2% of a step it is
      sampled: it looks after the optimizer steps 0, 1, 2, 4, 8, 16, 32, after every 64th, and at the end of an epoch,
      also at what the optimizer remembers of the steps between. So it is exact for torch's optimizers with a memory
      (momentum, Adam, AdamW, RMSprop ...) and otherwise an upper bound: for SGD without momentum, and under weight
      decay that counts as a gradient.
    - `gradient/untouched_pruned`: of the chosen weights, those that are untouched and have ever been pruned. Once the
      masks are off, this is where sparsity stops falling: these weights have no way to leave zero.

    To TensorBoard it also draws the sparsity of all layers as one figure and, on request, histograms, at the epoch as
    their step. Other loggers do not get these. A resumed run goes on counting.

    Args:
        every_n_epochs: Log at the end of every n-th epoch.
        per_layer: Log each layer too, and draw the figure.
        histograms: Draw histograms of each layer's weights, `weights/<name>`, and of those that are not zero,
            `weights_nonzero/<name>`.
        gradient_coverage: Log `gradient/untouched`; it needs a byte for each weight.

    Raises:
        InputError: At construction, if `every_n_epochs` is not a whole number from 1 on; in `setup`, under strategies
            that shard parameters; when `fit` starts, if there is no weight to watch.
    """

    def __init__(
        self,
        every_n_epochs: int = 1,
        per_layer: bool = True,
        histograms: bool = False,
        gradient_coverage: bool = True,
    ) -> None:
        if isinstance(every_n_epochs, bool) or not isinstance(every_n_epochs, int) or every_n_epochs < 1:
            raise expected("`every_n_epochs` to be a whole number from 1 on", every_n_epochs, "1 logs every epoch")
        self.every_n_epochs = every_n_epochs
        self.per_layer = per_layer
        self.histograms = histograms
        self.gradient_coverage = gradient_coverage
        self._module: LightningModule | None = None
        self._weights: list[WeightRef] = []
        self._pruners: list[Pruning] = []
        self._coverage: GradientCoverage | None = None
        self._touched: dict[str, Tensor] = {}
        self._steps: list[int] = []
        self._handles: list[RemovableHandle] = []

    @property
    def state_key(self) -> str:
        """Differs between monitors of one trainer."""
        return self._generate_state_key(
            every_n_epochs=self.every_n_epochs,
            per_layer=self.per_layer,
            histograms=self.histograms,
            gradient_coverage=self.gradient_coverage,
        )

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew, unless the trainer goes on with the same model."""
        if stage != "fit":
            return
        refuse_sharded_parameters(trainer, self)
        if not continues(trainer, pl_module, self._module):
            self._touched, self._steps = {}, []
        elif self._coverage is not None:
            self._touched = self._coverage.touched()
        self._module, self._coverage = pl_module, None

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Choose the weights, now that they are there."""
        self._choose(trainer, pl_module)
        if self.gradient_coverage:
            self._coverage = GradientCoverage(self._weights)
            if self._touched:
                self._coverage.restore(self._touched)
            self._steps += [0] * (len(trainer.optimizers) - len(self._steps))
            # after the steps, when every other callback has done to the gradients what it does
            self._handles = [
                optimizer.register_step_post_hook(partial(self._look, index))
                for index, optimizer in enumerate(trainer.optimizers)
            ]

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log and draw."""
        if self._coverage is not None:
            # every epoch, because pruning clears what optimizers remember
            self._coverage.update(trainer.optimizers)
        if (trainer.current_epoch + 1) % self.every_n_epochs:
            return
        report = sparsity_report(self._weights)
        pl_module.log_dict(self._metrics(report))
        loggers: list[Any] = trainer.loggers
        for logger in loggers:
            # by name, because lightning.pytorch and pytorch_lightning each have their own classes
            if trainer.is_global_zero and "TensorBoardLogger" in {base.__name__ for base in type(logger).__mro__}:
                if self.per_layer:
                    draw_sparsity(logger.experiment, report, trainer.current_epoch)
                if self.histograms:
                    draw_histograms(logger.experiment, self._weights, trainer.current_epoch)

    def measure(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, float]:
        """Measure a model as it is, without training.

        Returns:
            What is logged about sparsity, by name; nothing about gradients.
        """
        self._choose(trainer, pl_module)
        self._coverage = None
        return self._metrics(sparsity_report(self._weights))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Look no longer."""
        self._stop_looking()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Look no longer."""
        self._stop_looking()

    def state_dict(self) -> dict[str, Any]:
        """Return which weights have received a gradient, as packed bits by layer, and the steps taken."""
        touched = self._touched if self._coverage is None else self._coverage.touched()
        return {"touched": pack_masks(touched), "steps": list(self._steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over what a checkpoint knows; it is used when `fit` starts."""
        self._touched = unpack_masks(state_dict["touched"])
        self._steps = list(state_dict["steps"])

    def _look(self, index: int, optimizer: Optimizer, *_: Any) -> None:
        if self._coverage is not None and _is_sampled(self._steps[index]):
            self._coverage.update([optimizer])
        self._steps[index] += 1

    def _stop_looking(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _choose(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._pruners = pruners_of(trainer)
        chosen = [weight_layers(pl_module, pruner.layers, pruner.exclude) for pruner in self._pruners]
        self._weights = list(chain.from_iterable(chosen)) or weight_layers(pl_module)

    def _metrics(self, report: SparsityReport) -> dict[str, float]:
        metrics = {"sparsity/global": report.sparsity, "sparsity/masked": report.masked / report.weights}
        metrics |= self._history()
        if self.per_layer:
            metrics |= {f"sparsity/layer/{layer.name}": layer.sparsity for layer in report.layers}
        if self._coverage is not None:
            metrics["gradient/untouched"] = self._coverage.untouched
        return metrics

    def _history(self) -> dict[str, float]:
        """What has become of the weights that were pruned at any time."""
        pruned = {name: mask for pruner in self._pruners for name, mask in pruner.ever_pruned.items()}
        touched = {} if self._coverage is None else self._coverage.touched()
        total = sum(ref.tensor.numel() for ref in self._weights)
        ever = alive = untouched = 0
        for ref in self._weights:
            if (mask := pruned.get(ref.name)) is not None:
                weight = getattr(ref.module, ref.parameter).detach()
                mask = mask.to(weight.device)
                ever += int(mask.count_nonzero())
                alive += int(weight[mask].count_nonzero())
                if ref.name in touched:
                    untouched += int((mask & ~touched[ref.name]).count_nonzero())
        metrics = {"sparsity/ever_pruned": ever / total, "sparsity/regrown": alive / ever if ever else 0.0}
        return metrics | ({"gradient/untouched_pruned": untouched / total} if touched else {})


def _is_sampled(step: int) -> bool:
    return step & (step - 1) == 0 or step % 64 == 0
