"""In a training step, the CPU never waits for a GPU: nothing reads a value of a tensor, except every 50th loss."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import pytest
import torch
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from lit_prune.data import CIFAR10DataModule
from lit_prune.training.callbacks import FiniteLoss
from tests.devices import DEVICES
from tests.training.conftest import NARROW, TINY, Run

CALLBACKS = [
    "--trainer.callbacks+=LayerFreezing",
    "--trainer.callbacks.fraction=0.3",
    "--trainer.callbacks.unfreeze_epoch=1",
    "--trainer.callbacks+=GlobalL1Pruning",
    "--trainer.callbacks.amount=0.5",
    "--trainer.callbacks.end_epoch=2",
    "--trainer.callbacks+=SparsityMonitor",
]


class NoReads(TorchDispatchMode):
    """Raises an error for operations whose result the CPU has to wait for."""

    waiting = (
        torch.ops.aten._local_scalar_dense.default,  # `item`, `float`, `bool`, `int`
        torch.ops.aten.nonzero.default,
        torch.ops.aten.masked_select.default,
        torch.ops.aten.equal.default,
    )

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = [index for index in args[1] if isinstance(index, Tensor)] if "index" in str(function) else []
        if function in self.waiting or any(index.dtype == torch.bool for index in indices):
            raise AssertionError(f"{function} waits for a GPU")
        return function(*args, **(kwargs or {}))


@contextmanager
def no_waits(device: str) -> Iterator[None]:
    """Raise an error if the CPU waits for a GPU, which CUDA itself reports if there is one."""
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        with NoReads() if device == "cpu" else nullcontext():
            yield
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[int]]:
    """Watch all steps except the first and last two of each epoch; return the list of those that were watched."""

    def watch(device: str) -> list[int]:
        original, seen = _TrainingEpochLoop.advance, list[int]()

        def advance(loop: Any, data_fetcher: Any) -> None:
            batch = loop.batch_progress.current.ready
            watch: AbstractContextManager[None] = nullcontext()
            if (
                1 <= batch < loop.trainer.num_training_batches - 2
            ):  # the last step logs, and the one before it prefetches its batch
                seen.append(batch)
                watch = no_waits(device)
            with watch:
                original(loop, data_fetcher)

        monkeypatch.setattr(_TrainingEpochLoop, "advance", advance)
        monkeypatch.setattr(FiniteLoss, "_is_cheap", lambda *_: False)  # as on a GPU
        return seen

    return watch


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "options",
    [[], ["--data.augment=standard", "--trainer.gradient_clip_val=1"], ["--trainer.precision=bf16-mixed"]],
    ids=["plain", "clipped", "bf16"],
)
@pytest.mark.gate
def test_no_step_waits(run: Run, watched: Callable[[str], list[int]], device: str, options: list[str]) -> None:
    seen = watched(device)
    tiny = [option.replace("accelerator=cpu", f"accelerator={device}") for option in TINY]
    sizes = ["--data.limit_train=60", "--data.batch_size=6", "--trainer.max_epochs=3"]
    answer = run("fit", *tiny, NARROW, *sizes, *CALLBACKS, *options)
    assert answer.status == 0, answer.err
    assert seen == [1, 2, 3, 4, 5, 6, 7] * 3


def test_a_step_that_waits_is_found(
    run: Run, watched: Callable[[str], list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def transfer(*args: Any) -> Any:
        batch = original(*args)
        _ = batch[0][batch[0] > 1e9]  # a boolean mask: the CPU has to wait for the number of selected pixels
        return batch

    original = CIFAR10DataModule.on_after_batch_transfer
    monkeypatch.setattr(CIFAR10DataModule, "on_after_batch_transfer", transfer)
    watched("cpu")
    with pytest.raises(AssertionError, match=r"aten.index.Tensor waits for a GPU"):
        run("fit", *TINY, NARROW, "--data.batch_size=4", "--trainer.max_epochs=1")
