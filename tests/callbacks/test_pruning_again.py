"""Pruning after an earlier run: a second fit, another checkpoint, another model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.nn.utils import prune

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing, PruningRemoval, SparsityMonitor
from tests.callbacks.criteria import CRITERIA, PRUNERS, pruned_at
from tests.callbacks.models import Batches, Classifier, conv_net, mlp, moved, quiet_trainer, snapshot
from tests.callbacks.test_pruning import Watch, changing_too, count, current_mask, fit, weight_layers, zeros

every_pruner = pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
every_criterion = pytest.mark.parametrize("pruner", CRITERIA.values(), ids=CRITERIA)


@every_criterion
def test_a_dense_checkpoint_can_be_pruned_and_trained(tmp_path: Path, pruner: Any) -> None:
    dense = Classifier(conv_net())
    fit(dense).save_checkpoint(tmp_path / "dense.ckpt")
    model, watch, pruning = Classifier(conv_net()), Watch(), pruner(0.3)
    trainer = quiet_trainer(max_epochs=4, callbacks=[pruning, watch])
    trainer.fit(model, Batches(), Batches(2, seed=1), ckpt_path=tmp_path / "dense.ckpt", weights_only=True)
    assert watch.training == [(epoch, pruned_at(pruning, model, 0.3)) for epoch in (2, 3) for _ in range(4)]


@changing_too
def test_one_callback_prunes_two_models_in_turn(pruner: Any) -> None:
    pruning = pruner(0.5)
    first, second = Classifier(conv_net()), Classifier(mlp())
    fit(first, pruning)
    kept = snapshot(first)
    fit(second, pruning)
    assert zeros(first) == pruned_at(pruning, first, 0.5)
    assert zeros(second) == pruned_at(pruning, second, 0.5)
    assert not moved(kept, snapshot(first))


@every_pruner
def test_a_second_fit_of_the_same_trainer_continues(pruner: Any) -> None:
    model, pruning = Classifier(conv_net()), pruner(0.8, start_epoch=1, end_epoch=5, schedule="linear")
    trainer = fit(model, pruning, max_epochs=4)
    assert zeros(model) == pruned_at(pruning, model, 0.4)
    trainer.fit_loop.max_epochs = 6
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert zeros(model) == pruned_at(pruning, model, 0.8)


@every_pruner
def test_a_second_fit_prunes_again_after_a_removal_at_the_end(pruner: Any) -> None:
    model, watch, pruning = Classifier(conv_net()), Watch(), pruner(0.5)
    trainer = fit(model, pruning, PruningRemoval("end"), watch)
    first = {name for name, weight in snapshot(model).items() if (weight == 0).any()}
    pruned = {name: snapshot(model)[name] == 0 for name in first}
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert set(watch.training) == {
        (epoch, pruned_at(pruning, model, 0.5) if epoch >= pruning.times.start else 0) for epoch in range(4)
    }
    assert all(torch.equal(snapshot(model)[name] == 0, pruned[name]) for name in first)
    assert not prune.is_pruned(model)


def test_a_second_fit_keeps_a_removal_at_an_epoch() -> None:
    model, watch = Classifier(mlp()), Watch()
    trainer = fit(model, GlobalL1Pruning(0.5), PruningRemoval(1), PruningRemoval("end"), watch)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert [number for epoch, number in watch.training if epoch == 2] == [0] * 4


@pytest.mark.parametrize("evaluate", [True, False])
def test_a_denser_checkpoint_of_another_run_is_pruned_again(tmp_path: Path, evaluate: bool) -> None:
    dense = fit(Classifier(conv_net()), max_epochs=1)
    dense.save_checkpoint(tmp_path / "dense.ckpt")
    model, watch = Classifier(conv_net()), Watch()
    trainer = fit(model, GlobalL1Pruning(0.5), watch)
    trainer.fit_loop.max_epochs = 3
    if evaluate:
        said = "GlobalL1Pruning has pruned 50.00% of the weights, but only 0.00% of the loaded weights are zero"
        with pytest.warns(UserWarning, match=said):
            trainer.test(model, Batches(2), ckpt_path=tmp_path / "dense.ckpt", verbose=False, weights_only=True)
        assert zeros(model) == 0
        trainer.fit(model, Batches(), Batches(2, seed=1))
    else:
        trainer.fit(model, Batches(), Batches(2, seed=1), ckpt_path=tmp_path / "dense.ckpt", weights_only=True)
    assert {number for _, number in watch.training} == {round(0.5 * count(model))}
    assert prune.is_pruned(model)


@pytest.mark.parametrize("written", ["*.fc", ["*.fc"], ("*.fc",)])
def test_equal_choices_have_equal_keys(written: Any) -> None:
    assert GlobalL1Pruning(0.5, layers=written).state_key == GlobalL1Pruning(0.5, layers=["*.fc"]).state_key
    assert GlobalL1Pruning(0.5, exclude=written).state_key == GlobalL1Pruning(0.5, exclude=["*.fc"]).state_key


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_run_continues_after_testing_an_older_checkpoint(tmp_path: Path) -> None:
    model, watch = Classifier(conv_net()), Watch()
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1)
    pruning = GlobalL1Pruning(0.8, end_epoch=2, schedule="linear")
    trainer = fit(model, pruning, saver, watch, enable_checkpointing=True, max_epochs=3)
    with pytest.warns(
        UserWarning, match="pruned 80.03% of the weights, but only 39.94% of the loaded weights are zero"
    ):
        trainer.test(model, Batches(2), ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False, weights_only=True)
    assert zeros(model) == round(0.4 * count(model))
    trainer.fit_loop.max_epochs = 4
    trainer.fit(model, Batches(), Batches(2, seed=1))
    assert {number for epoch, number in watch.training if epoch == 3} == {round(0.8 * count(model))}


@pytest.mark.parametrize(
    "callback",
    [SparsityMonitor(), LayerFreezing(layers="net.conv1"), PruningRemoval(9)],
    ids=lambda it: type(it).__name__,
)
def test_masks_of_an_earlier_trainer_are_held_by_any_of_the_callbacks(callback: Any) -> None:
    model = Classifier(conv_net(), "adam")
    fit(model, GlobalL1Pruning(0.5))
    masks = {ref.name: current_mask(ref) for ref in weight_layers(model)}
    before = snapshot(model)
    fit(model, callback)
    for ref in weight_layers(model):
        assert torch.equal(ref.tensor != 0, masks[ref.name])
    assert not torch.equal(before["net.fc.weight"], model.state_dict()["net.fc.weight"])
