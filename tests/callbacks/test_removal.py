"""Masks are removed at their epoch, and pruned weights grow from zero."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint, StochasticWeightAveraging
from torch import nn
from torch.nn import utils

from lit_prune.callbacks import GlobalL1Pruning, PruningRemoval
from lit_prune.errors import InputError
from lit_prune.functional import apply_masks, compute_masks, selection
from tests.callbacks.criteria import PRUNERS, pruned_at
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, mlp, quiet_trainer

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
prune: Any = utils.prune


class Watch(Callback):
    """Records before each batch how many weights are zero and whether any are masked."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int, bool]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append((trainer.current_epoch, zeros(pl_module), prune.is_pruned(pl_module)))


def zeros(model: nn.Module) -> int:
    return sum(int((ref.module.weight == 0).sum()) for ref in weight_layers(model))


def count(model: nn.Module) -> int:
    return sum(ref.tensor.numel() for ref in weight_layers(model))


def fit(model: Classifier, *callbacks: Callback, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks=list(callbacks), **kwargs)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    return trainer


@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
def test_dense_sparse_dense(pruner: Any, optimizer: str) -> None:
    model, watch = Classifier(mlp(), optimizer), Watch()
    names = [name for name, _ in model.named_parameters()]
    pruning = pruner(0.4, start_epoch=1)
    fit(model, PruningRemoval(2), pruning, watch, max_epochs=3)
    sparse = pruned_at(pruning, model, 0.4)
    assert watch.seen[:8] == [(0, 0, False)] * 4 + [(1, sparse, True)] * 4
    # weights are still zero at the removal, and only gradients move them
    assert watch.seen[8] == (2, sparse, False)
    assert watch.seen[-1][1] < sparse
    assert [name for name, _ in model.named_parameters()] == names


@pytest.mark.parametrize("swap", [True, False])
def test_pruning_comes_before_removal_in_one_epoch(swap: bool) -> None:
    model, watch = Classifier(mlp()), Watch()
    callbacks: list[Callback] = [GlobalL1Pruning(0.4, start_epoch=1), PruningRemoval(1), watch]
    if swap:
        callbacks[:2] = callbacks[1::-1]
    fit(model, *callbacks)
    assert watch.seen[4] == (1, round(0.4 * count(model)), False)
    assert watch.seen[-1][1] < watch.seen[4][1]


def test_only_weights_without_gradients_stay_zero_after_the_removal() -> None:
    class Dead(nn.Module):
        """The second half of the inputs is always zero, so its weights can never learn."""

        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(192, 4)
            self.register_buffer("alive", torch.arange(192) < 96)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            out: torch.Tensor = self.fc(images.flatten(1) * self.get_buffer("alive"))
            return out

    # weight decay does not change zeros
    model: Any = Classifier(Dead())
    pruned: list[torch.Tensor] = []

    class Note(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if not pruned:
                pruned.append(pl_module.net.fc.weight == 0)

    fit(model, PruningRemoval(0), GlobalL1Pruning(0.5), Note())
    net: Any = model.net
    assert torch.equal(net.fc.weight == 0, pruned[0] & ~net.alive)


def test_masks_of_torch_are_removed_too() -> None:
    model: Any = Classifier(mlp())
    prune.l1_unstructured(model.net[1], "weight", 0.5)
    prune.random_unstructured(model.net[3], "bias", 3)
    kept = int(model.net[1].weight_mask.sum())
    watch = Watch()
    fit(model, PruningRemoval(1), watch)
    assert not prune.is_pruned(model)
    assert watch.seen[4][1:] == (model.net[1].weight.numel() - kept, False)
    assert type(model.net[1].weight) is nn.Parameter


def test_a_gradual_schedule_prunes_again_after_the_removal() -> None:
    model, watch = Classifier(mlp()), Watch()
    fit(model, GlobalL1Pruning(0.8, end_epoch=4, schedule="linear"), PruningRemoval(2), watch, max_epochs=5)
    first = {epoch: (number, masked) for epoch, number, masked in reversed(watch.seen)}
    total = count(model)
    assert first[2] == (round(0.4 * total), False)
    assert first[3] == (round(0.8 * 3 / 4 * total), True)
    assert first[4] == (round(0.8 * total), True)


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_end_leaves_an_unmasked_model_with_zeros(tmp_path: Path) -> None:
    model: Any = Classifier(mlp())
    saver = ModelCheckpoint(tmp_path, save_last=True)
    trainer = fit(model, PruningRemoval("end"), GlobalL1Pruning(0.4), saver, enable_checkpointing=True)
    assert not prune.is_pruned(model)
    assert zeros(model) == round(0.4 * count(model))
    # a run resumed from the last checkpoint, written before the end, has its masks
    resumed, watch = Classifier(mlp()), Watch()
    again = quiet_trainer(callbacks=[PruningRemoval("end"), GlobalL1Pruning(0.4), saver, watch], max_epochs=3)
    again.fit(resumed, Batches(), Batches(2), ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert watch.seen == [(2, zeros(model), True)] * 4
    assert not prune.is_pruned(resumed)
    trainer.save_checkpoint(tmp_path / "after.ckpt")


def test_end_leaves_an_unmasked_model_with_weight_averaging() -> None:
    model: Any = Classifier(mlp())
    apply_masks(model, compute_masks(weight_layers(model), 0.4))
    fit(model, PruningRemoval("end"), StochasticWeightAveraging(0.01, swa_epoch_start=1), max_epochs=4)
    assert not prune.is_pruned(model)
    assert zeros(model) == round(0.4 * count(model))


def test_nothing_happens_without_masks() -> None:
    first, second = Classifier(mlp()), Classifier(mlp())
    second.load_state_dict(first.state_dict())
    fit(first, PruningRemoval(1))
    fit(second)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_one_callback_works_on_two_models_in_turn() -> None:
    removal, pruning = PruningRemoval(1), GlobalL1Pruning(0.4)
    for _ in range(2):
        model, watch = Classifier(mlp()), Watch()
        fit(model, removal, pruning, watch)
        assert [masked for _, _, masked in watch.seen] == [True] * 4 + [False] * 4


@pytest.mark.parametrize("epoch", [-1, 1.5, True, "start", None])
def test_bad_epochs_are_refused(epoch: Any) -> None:
    with pytest.raises(InputError, match="`epoch` to be a non-negative integer"):
        PruningRemoval(epoch)
