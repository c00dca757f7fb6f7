"""A resumed run gives the same bits as one that was never stopped."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import Checkpoint
from torch.nn.utils import prune

from lit_prune.callbacks import (
    GlobalL1Pruning,
    GlobalRandomPruning,
    LayerFreezing,
    LocalL1Pruning,
    PruningRemoval,
    SparsityMonitor,
)
from lit_prune.functional import masking, selection
from tests.callbacks.criteria import LampPruning, TaylorPruning
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, conv_net, quiet_trainer, snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

EPOCHS = 5
BATCHES = 4


def zeros(model: torch.nn.Module) -> int:
    return sum(int((getattr(ref.module, ref.parameter) == 0).sum()) for ref in weight_layers(model))


def count(model: torch.nn.Module) -> int:
    return sum(ref.tensor.numel() for ref in weight_layers(model))


KINDS: dict[str, Callable[[], list[Callback]]] = {
    "once": lambda: [GlobalL1Pruning(0.4, start_epoch=1)],
    "gradual": lambda: [GlobalL1Pruning(0.7, start_epoch=0, end_epoch=4)],
    "random": lambda: [GlobalRandomPruning(0.6, seed=3, start_epoch=1, end_epoch=3, schedule="linear")],
    "removed": lambda: [PruningRemoval(2), GlobalL1Pruning(0.5, start_epoch=1)],
    "frozen": lambda: [
        SparsityMonitor(),
        GlobalL1Pruning(0.5, end_epoch=3),
        LayerFreezing(0.3, unfreeze_epoch=2, freeze_norm=False),
    ],
    "local": lambda: [LocalL1Pruning(0.6, end_epoch=4, every_n_epochs=2)],
    "lamp": lambda: [LampPruning(0.6, start_epoch=1, end_epoch=3)],
    "taylor": lambda: [TaylorPruning(0.6, start_epoch=1, end_epoch=3)],
    "ticket": lambda: [GlobalL1Pruning(0.5, start_epoch=2, rewind_to=0)],
    "tickets": lambda: [GlobalL1Pruning(0.7, end_epoch=4, schedule="geometric", every_n_epochs=2, rewind_to=1)],
    "rewound": lambda: [
        LayerFreezing(0.3, unfreeze_epoch=3),
        LocalL1Pruning(0.5, start_epoch=1, end_epoch=4, exclude="*.fc", rewind_to=0),
        SparsityMonitor(),
        GlobalRandomPruning(0.5, start_epoch=2, layers="*.fc"),
        PruningRemoval(3),
    ],
}


def kinds_and_optimizers(all_optimizers: Sequence[str], quick_kinds: Sequence[str] = tuple(KINDS)) -> list[Any]:
    """Pair each kind with each optimizer; quick tests take one of them, or all where the optimizer matters most."""
    names = list(OPTIMIZERS)
    return [
        pytest.param(kind, name, marks=() if quick else pytest.mark.slow)
        for number, kind in enumerate(KINDS)
        for turn, name in enumerate(names)
        for quick in [kind in quick_kinds and (kind in all_optimizers or turn == number % len(names))]
    ]


def callbacks(kind: str) -> list[Callback]:
    return KINDS[kind]()


class Crash(Callback):
    """Raises in the middle of an epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if (trainer.current_epoch, batch_idx) == (3, 1):
            raise RuntimeError("power cut")


def final(trainer: Any, model: Classifier) -> dict[str, Any]:
    optimizer = trainer.optimizers[0].state_dict()
    return {"weights": snapshot(model), "optimizer": optimizer}


def assert_same(left: Any, right: Any) -> None:
    assert type(left) is type(right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list):
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    elif isinstance(left, torch.Tensor):
        # bits, so that -0.0 is not 0.0
        assert left.dtype == right.dtype
        assert left.numpy().tobytes() == right.numpy().tobytes()
    else:
        assert left == right


def fit(model: Classifier, extra: list[Callback], ckpt_path: Path | None = None, **kwargs: Any) -> Any:
    trainer = quiet_trainer(max_epochs=EPOCHS, callbacks=extra, **kwargs)
    trainer.fit(model, Batches(BATCHES), Batches(2, seed=1), ckpt_path=ckpt_path, weights_only=True)
    return trainer


class Metrics(Callback):
    """Records the metrics of each epoch."""

    def __init__(self) -> None:
        self.epochs: dict[int, dict[str, float]] = {}

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs[trainer.current_epoch] = {name: float(value) for name, value in trainer.callback_metrics.items()}


class Saver(Checkpoint):
    """Keeps a checkpoint of every batch and of every epoch's end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        trainer.save_checkpoint(self.folder / f"step-{trainer.global_step}.ckpt")

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.save_checkpoint(self.folder / f"epoch-{trainer.current_epoch}.ckpt")


@pytest.mark.parametrize(("kind", "optimizer"), kinds_and_optimizers(["gradual", "tickets"]))
def test_resuming_from_any_checkpoint_is_bit_identical(tmp_path: Path, kind: str, optimizer: str) -> None:
    def build() -> Classifier:
        torch.manual_seed(5)
        net: Any = conv_net()
        net.drop.p = 0.0  # a resumed process does not have the random state of the one that was stopped
        return Classifier(net, optimizer)

    model = build()
    whole = fit(model, [*callbacks(kind), Saver(tmp_path)])
    expected = final(whole, model)
    expected_zeros = zeros(model)
    assert expected_zeros > 0 or kind == "removed"
    # in the middle of epochs before and after the events, at last batches, and at ends of epochs
    for name in ["step-4", "step-6", "step-8", "step-18", "epoch-0", "epoch-2"]:
        resumed = build()
        trainer = fit(resumed, callbacks(kind), tmp_path / f"{name}.ckpt")
        assert zeros(resumed) == expected_zeros, name
        assert_same(final(trainer, resumed), expected)


@pytest.mark.parametrize("order", [1, -1])
def test_all_callbacks_together_resume_with_their_metrics(tmp_path: Path, order: int) -> None:
    def build() -> Classifier:
        torch.manual_seed(5)
        net: Any = conv_net()
        net.drop.p = 0.0
        return Classifier(net, scheduler="onecycle")

    def everything(order: int) -> list[Callback]:
        freezing, pruning = LayerFreezing(0.3, unfreeze_epoch=2), GlobalL1Pruning(0.7, end_epoch=4)
        callbacks: list[Callback] = [freezing, pruning, PruningRemoval(3), SparsityMonitor()]
        return callbacks[::order]

    model, seen = build(), Metrics()
    expected = final(fit(model, [*everything(order), seen, Saver(tmp_path)]), model)
    # before, at and after the epochs of unfreezing and removal
    for name in ["step-7", "step-8", "step-9", "step-12", "step-13", "epoch-1", "epoch-2", "epoch-3"]:
        resumed, again = build(), Metrics()
        trainer = fit(resumed, [*everything(-order), again], tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, resumed), expected)
        assert again.epochs == {epoch: seen.epochs[epoch] for epoch in again.epochs}, name
        assert 4 in again.epochs


@pytest.mark.parametrize(
    ("kind", "optimizer"), kinds_and_optimizers([], ["once", "gradual", "removed", "taylor", "tickets", "rewound"])
)
def test_resuming_in_the_same_process_after_a_crash_is_bit_identical(tmp_path: Path, kind: str, optimizer: str) -> None:
    def build() -> Classifier:
        torch.manual_seed(5)
        net: Any = conv_net()
        net.drop.p = 0.0
        return Classifier(net, optimizer)

    model = build()
    expected = final(fit(model, callbacks(kind)), model)

    model, used = build(), callbacks(kind)
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, [*used, Saver(tmp_path), Crash()])
    for name in ["step-13", "step-3"]:
        trainer = fit(model, used, tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, model), expected)


def test_resume_keeps_sparsity_and_masks(tmp_path: Path) -> None:
    model: Any = Classifier(conv_net())
    fit(model, [GlobalL1Pruning(0.4), Saver(tmp_path)])
    resumed = Classifier(conv_net())
    fit(resumed, [GlobalL1Pruning(0.4)], tmp_path / "epoch-0.ckpt")
    assert zeros(resumed) == round(0.4 * count(resumed))
    assert prune.is_pruned(resumed)
    for mine, theirs in zip(weight_layers(model), weight_layers(resumed), strict=True):
        assert torch.equal(current_mask(mine), current_mask(theirs))
