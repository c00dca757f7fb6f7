"""Compile the network with `torch.compile` while it trains."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import nn
from torchmetrics import Metric

from lit_prune.callbacks._base import Callback


class CompiledTraining(Callback):
    """Compiles a network in place while it trains; names and checkpoints do not change, and copies are not compiled.

    Whatever the training step calls is compiled: the module itself, or the networks that it consists of. Validation
    uses the uncompiled network: compiling it for validation too would take minutes, too long for a few batches. With
    CUDA graphs, compiled code in validation would also overwrite the gradients of the last training step.

    Args:
        mode: Mode of `torch.compile`. None chooses "reduce-overhead", which records CUDA graphs, for one process on a
            GPU with automatic optimization and without accumulated gradients, and otherwise "default".
        backend: Backend of `torch.compile`.
    """

    def __init__(self, mode: str | None = None, backend: str = "inductor") -> None:
        self._mode = mode
        self._backend = backend
        self._compiled: dict[nn.Module, _Call] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prepare to compile; torch compiles a module when it is first called."""
        options: Any = {"backend": self._backend} | (
            {"mode": mode} if (mode := self._choose_mode(trainer, pl_module)) else {}
        )
        networks = [*_networks(pl_module)]
        if trainer.strategy.model is pl_module:  # not with DDP, where a call of the module is a whole training step
            networks.append(pl_module)  # its compiled code includes that of the networks that it calls
        self._compiled = {module: _Call(torch.compile(module._call_impl, **options)) for module in networks}
        self._use(self._compiled)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the uncompiled network during validation."""
        self._use(dict.fromkeys(self._compiled))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Use the compiled network again."""
        self._use(self._compiled)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Leave the network as it was."""
        self._use(dict.fromkeys(self._compiled))
        self._compiled = {}

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave the network as it was."""
        self.teardown(trainer, pl_module, "fit")

    def _choose_mode(self, trainer: Trainer, pl_module: LightningModule) -> str | None:
        if self._mode is not None or self._backend != "inductor":
            return self._mode
        # the gradients and outputs of a CUDA graph last until its next replay
        one_graph = trainer.world_size == trainer.accumulate_grad_batches == 1 and pl_module.automatic_optimization
        return "reduce-overhead" if pl_module.device.type == "cuda" and one_graph else "default"

    @staticmethod
    def _use(calls: dict[nn.Module, Any]) -> None:
        # `nn.Module.compile` sets this attribute too, but has no way to reset it; None means not compiled
        for module, call in calls.items():
            module._compiled_call_impl = call


class _Call:
    """Compiled call of a module; copies of the module must not have it, but a copied LightningModule would keep it."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._call(*args, **kwargs)

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()


def _networks(module: nn.Module) -> Iterator[nn.Module]:
    """Yield the largest modules inside a module that can be called."""
    for child in module.children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _networks(child)
        elif not isinstance(child, Metric | torch.jit.ScriptModule):
            yield child
