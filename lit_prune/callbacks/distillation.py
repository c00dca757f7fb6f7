"""Train towards the outputs of a teacher, for example of the network before it was pruned."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from lit_prune.callbacks._base import Callback
from lit_prune.callbacks._calibration import isolated
from lit_prune.callbacks._checks import refuse_sharded_parameters
from lit_prune.callbacks._wrapping import Wrapped
from lit_prune.errors import InputError, closest_hint, expected


class Distillation(Callback):
    """Add the distance to a teacher's outputs to the loss of `training_step`.

    The loss grows by `weight` x T^2 x KL(teacher || student), where both probabilities are softmax(logits / T) (Hinton
    et al., "Distilling the knowledge in a neural network", 2015). Classes are in dimension 1 of the logits, as in
    `torch.nn.functional.cross_entropy`; the divergence is averaged over all other dimensions. Logits are what
    `self(inputs)` returns in `training_step` or, if `module` is given, what this submodule returns. The teacher gets
    the same inputs. If there are several calls in a step, their divergences are averaged.

    The teacher runs in evaluation mode and without gradients. It is part neither of the model nor of a checkpoint, and
    does not change the random state.

    Logged in every epoch, as `distillation` or, with `module`, `distillation/<module>`: T^2 x KL(teacher || student) in
    nats per example, averaged over the epoch.

    Args:
        teacher: Path of a checkpoint or state dict of the same model, which is read when `fit` starts; or a module that
            returns logits for the same inputs, which is moved to the device and set to evaluation mode.
        weight: Factor of the added loss, above 0.
        temperature: Temperature T, above 0. The higher it is, the more small probabilities count.
        module: Name of the submodule whose outputs are the logits, for example "net". None takes the LightningModule.
            If `teacher` is a module, it is called with the inputs of this submodule.

    Raises:
        InputError: At construction, if an argument is out of range; when `fit` starts, if the teacher cannot be read,
            does not fit, or shares parameters with the model, if there is no such submodule, in manual optimization,
            and under strategies that shard parameters; in a step, if there are no logits.

    Examples:
        >>> from lightning.pytorch import Trainer
        >>> from lit_prune.callbacks.pruning import GlobalL1Pruning
        >>> parent = Distillation("dense.ckpt", weight=0.9)
        >>> trainer = Trainer(callbacks=[GlobalL1Pruning(0.9), parent], logger=False)
    """

    def __init__(
        self, teacher: str | nn.Module, weight: float = 0.5, temperature: float = 4.0, module: str | None = None
    ) -> None:
        if not isinstance(teacher, str | nn.Module):
            raise expected("`teacher` to be a path or a module", teacher, "give the checkpoint of the dense network")
        for name, value in (("weight", weight), ("temperature", temperature)):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not (number and 0 < value < math.inf):
                raise expected(f"a finite `{name}` above 0", value, "leave it out for the default")
        # `MaskHolder` would mistake a callback that holds an `AveragedModel` for one that averages the model
        self.teacher = teacher.module if isinstance(teacher, AveragedModel) else teacher
        self.weight = weight
        self.temperature = temperature
        self.module = module
        self._teacher: nn.Module | None = None
        self._calls = _Calls()
        self._undo: list[Any] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Read the teacher, and start to add to the loss."""
        refuse_sharded_parameters(trainer, self)
        if not pl_module.automatic_optimization:
            hint = "`training_step` uses the loss before a callback can add to it; remove Distillation"
            raise expected("automatic optimization with Distillation", "manual optimization", hint)
        student = self._submodule(pl_module)
        teacher = self.teacher if isinstance(self.teacher, nn.Module) else self._read(self.teacher, pl_module)
        if {*map(id, teacher.parameters())} & {*map(id, pl_module.parameters())}:
            hint = "give a `deepcopy` of the model, made before `fit`, or the path of a checkpoint"
            raise expected("a `teacher` with parameters of its own", "one that shares some with the model", hint)
        self._teacher = trainer.precision_plugin.convert_module(teacher.to(pl_module.device)).eval()
        self._undo = [
            student.register_forward_hook(self._calls, with_kwargs=True),
            Wrapped(trainer.strategy, "training_step", partial(self._step, trainer, pl_module)),
        ]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Remove the hooks from the model and the strategy, and free a teacher that was read from a file."""
        for handle in self._undo:
            handle.remove()
        self._undo = []
        self._teacher = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Do the same as `teardown`."""
        self.teardown(trainer, pl_module, "fit")

    def _submodule(self, pl_module: LightningModule) -> nn.Module:
        modules: dict[str, nn.Module] = dict(pl_module.named_modules())
        if (self.module or "") not in modules:
            hint = closest_hint(str(self.module), modules, "leave it out if `training_step` calls the model itself")
            raise expected("`module` to name a submodule of the model", f"`{self.module}`", hint)
        return modules[self.module or ""]

    def _read(self, path: str, pl_module: LightningModule) -> nn.Module:
        from lit_prune.files.checkpoint import check_state_dict, read_state_dict  # late: other callbacks read no files

        weights = read_state_dict(path)
        copied = deepcopy(pl_module)
        check_state_dict(copied, weights, path)
        copied.load_state_dict(weights)
        copied.trainer = pl_module.trainer  # which a copy does not have
        return self._submodule(copied)

    def _step(self, trainer: Trainer, pl_module: LightningModule, step: Any, *args: Any) -> Any:
        with self._calls.recorded() as calls:
            output = step(*args)
        if self.module is None and trainer.strategy.model is not pl_module:
            calls.pop()  # under DDP, the training step itself is a call of the LightningModule
        loss = output["loss"] if isinstance(output, Mapping) else output
        if loss is None:
            return None
        if not calls:
            what = "the LightningModule, `self(inputs)`" if self.module is None else f"`{self.module}`"
            raise InputError(f"`training_step` does not call {what}. Set `module` to the submodule that it calls.")
        distance = torch.stack([self._distance(trainer, *call) for call in calls]).mean()
        name = "distillation" if self.module is None else f"distillation/{self.module}"
        size = len(_logits(calls[0][2]))
        pl_module.log(name, distance.detach(), on_step=False, on_epoch=True, sync_dist=True, batch_size=size)
        loss = loss + self.weight * distance
        return {**output, "loss": loss} if isinstance(output, Mapping) else loss

    def _distance(self, trainer: Trainer, args: Any, kwargs: Any, output: Any) -> Tensor:
        """Return T^2 x KL(teacher || student) for one call of the student."""
        assert self._teacher is not None  # noqa: S101 - set when `fit` starts
        student = _logits(output)
        with torch.no_grad(), isolated(student.device), trainer.precision_plugin.train_step_context():
            teacher = _logits(self._teacher(*args, **kwargs))
        if teacher.shape != student.shape:
            what = f"logits of shape {tuple(student.shape)} from the teacher, as from the model"
            raise expected(what, str(tuple(teacher.shape)), "give a teacher for the same classes")
        wide = torch.promote_types(student.dtype, torch.float32)
        log_student, log_teacher = (
            F.log_softmax(logits.to(wide) / self.temperature, 1) for logits in (student, teacher)
        )
        divergences = F.kl_div(log_student, log_teacher, reduction="none", log_target=True).sum(1)
        return self.temperature**2 * divergences.mean()


class _Calls:
    """Forward hook that records the calls of a module during a training step; copies of the module record nothing."""

    def __init__(self) -> None:
        self._found: list[tuple[Any, Any, Any]] | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator] # the compiler warns of tensors that a hook keeps
    def __call__(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        if self._found is not None:
            self._found.append((args, kwargs, output))

    def __reduce__(self) -> tuple[type["_Calls"], tuple[()]]:
        return _Calls, ()

    @contextmanager
    def recorded(self) -> Iterator[list[tuple[Any, Any, Any]]]:
        """Provide the list of arguments, keyword arguments and outputs of the calls so far."""
        found: list[tuple[Any, Any, Any]] = []
        self._found = found
        try:
            yield found
        finally:
            self._found = None


def _logits(output: Any) -> Tensor:
    """Return the logits among the outputs of a model."""
    logits = getattr(output, "logits", output)  # transformers
    if not isinstance(logits, Tensor) or logits.dim() < 2:
        found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        hint = "set `module` to the name of a submodule that returns logits"
        raise expected("logits (examples, classes, ...) for Distillation", found, hint)
    return logits
