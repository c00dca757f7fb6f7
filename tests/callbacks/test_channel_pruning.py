"""Channels pruned in training: zero in all layers that compute them, at every step, and the same after a resume."""

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from lit_prune.callbacks import ACDC, Pruning
from lit_prune.errors import InputError
from lit_prune.functional.masking import current_mask
from lit_prune.trained.shrink import remove_channels
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, quiet_trainer, snapshot
from tests.callbacks.test_pruning_resume import Saver, assert_same, final
from tests.functional.test_channels import Residual


class Checked(Pruning):
    """Checks before and after every step that a channel is zero in all layers that compute it, or in none."""

    checks = 0

    def check(self) -> None:
        coupled = self._coupled
        if coupled is None or not self.ever_pruned:
            return
        dead = torch.zeros(len(coupled.groups), dtype=torch.bool)
        for ref in self.weights:
            dead[coupled.rows[ref.name][(ref.tensor == 0).flatten(1).all(1)]] = True
        assert dead.any()
        for ref in [*self.weights, *self._dependents]:
            assert not ref.tensor[dead[coupled.rows[ref.name]]].any(), ref.name
        self.checks += 1

    def on_train_batch_end(self, *args: Any) -> None:
        self.check()

    def on_before_backward(self, *args: Any) -> None:
        self.check()


def classifier(example: bool, optimizer: str = "adam") -> Any:
    torch.manual_seed(1)
    model: Any = Classifier(Residual(), optimizer=optimizer)
    if example:
        model.example_input_array = torch.zeros(2, 3, 8, 8)
    return model


def pruning(**options: Any) -> Checked:
    chosen: Any = {"amount": 0.6, "structure": "channel", "start_epoch": 0, "end_epoch": 3} | options
    return Checked(**chosen)


def fit(model: Any, callbacks: list[Any], path: Any = None) -> Any:
    trainer = quiet_trainer(callbacks, max_epochs=5)
    trainer.fit(model, Batches(4), Batches(2, seed=1), ckpt_path=path, weights_only=True)
    return trainer


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("example", [False, True])
def test_channels_are_zero_at_every_step_and_can_be_removed(optimizer, example):
    model, callback = classifier(example, optimizer), pruning(allocation="uniform", start_epoch=1)
    before = snapshot(model)
    fit(model, [callback])
    assert callback.checks == 2 * 3 * 4  # three epochs of four batches; the ramp starts from 0 in epoch 1
    assert not any(torch.equal(value, before[name]) for name, value in snapshot(model).items() if "weight" in name)
    smaller: Any = remove_channels(model.net, None, 8, ["head"])
    assert [len(getattr(smaller, name).weight) for name in ("stem", "norm", "side", "hidden", "head")] == [
        3,
        3,
        2,
        3,
        5,
    ]
    images = torch.randn(16, 3, 8, 8)
    for mode in (False, True):
        torch.testing.assert_close(smaller.train(mode)(images), model.net.train(mode)(images), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("example", [False, True])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
@pytest.mark.gate
def test_a_resumed_run_gives_the_same_bits(tmp_path, allocation, example):
    model = classifier(example)
    whole = final(fit(model, [pruning(allocation=allocation), Saver(tmp_path)]), model)
    for name in ("step-3", "step-10", "step-18", "epoch-2"):
        resumed = classifier(example)
        assert_same(final(fit(resumed, [pruning(allocation=allocation)], tmp_path / f"{name}.ckpt"), resumed), whole)


def test_dense_phases_have_no_masks_of_biases_and_norms():
    model, callback = classifier(True), ACDC(0.6, start_epoch=1, phase_epochs=1, structure="channel")
    masked = []

    class Count(Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            held = [current_mask(ref) for ref in callback.held]
            masked.append({mask.dim() > 1 for mask in held if mask is not None and not mask.all()})

    fit(model, [callback, Count()])  # dense, sparse, dense, sparse, sparse
    assert len(callback.held) > len(callback.weights)
    assert masked == [set(), {True, False}, set(), {True, False}, {True, False}]


def test_dense_phases_without_an_example_resume_with_the_same_bits(tmp_path):
    model = classifier(example=False)
    expected = final(fit(model, [ACDC(0.5, structure="channel"), Saver(tmp_path)]), model)
    for name in ("epoch-0", "epoch-1", "step-6"):
        resumed = classifier(example=False)
        trainer = fit(resumed, [ACDC(0.5, structure="channel")], tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, resumed), expected)


def test_without_a_trainer():
    model = classifier(True)
    pruning(amount=0.5).prune(model)
    assert len(remove_channels(model.net, None, 8, ["head"]).get_parameter("stem.weight")) < 8
    with pytest.raises(
        InputError, match=r"example input, to find the channels .* HINT: set `self.example_input_array`"
    ):
        pruning(amount=0.5).prune(classifier(False))


def test_excluded_layers_stay_dense_with_all_that_share_their_channels():
    model = classifier(True)
    callback = pruning(exclude="net.point")
    fit(model, [callback])
    assert {ref.name for ref in callback.weights} == {"net.side", "net.hidden"}
    assert all(parameter.all() for layer in (model.net.stem, model.net.norm) for parameter in layer.parameters())
