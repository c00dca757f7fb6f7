"""Criteria that need data or follow the training keep the promises of all pruning callbacks."""

import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor, nn

from lit_prune import GlobalL1Pruning, LayerFreezing, Pruning
from lit_prune.errors import InputError
from lit_prune.functional import (
    Fisher,
    Movement,
    Reinitialised,
    Shuffled,
    Taylor,
    compute_masks,
    masking,
    weight_layers,
)
from tests.callbacks.models import Batches, Classifier, TwoOptimizers, conv_net, mlp, moved, quiet_trainer, snapshot
from tests.callbacks.test_pruning_resume import Saver, assert_same, final
from tests.processes import run_ddp

current_mask: Any = masking.current_mask

pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step`", "ignore:Layers? .* entirely zero")

GRADUAL: dict[str, Any] = {"start_epoch": 1, "end_epoch": 3}
KINDS: dict[str, Any] = {
    "taylor": lambda: Pruning(0.5, "taylor", **GRADUAL),
    "fisher": lambda: Pruning(0.5, Fisher(2), start_step=3, end_step=11, every_n_steps=2, recalibrate=3),
    "movement": lambda: Pruning(0.5, "movement", allocation="uniform", **GRADUAL),
    "shuffled movement": lambda: Pruning(0.5, Shuffled(Movement(), 3), **GRADUAL),
    "snip": lambda: Pruning(0.5, "snip"),
    "grasp": lambda: Pruning(0.5, "grasp", structure="kernel"),
    "synflow": lambda: Pruning(0.5, "synflow"),
    "reinitialised": lambda: Pruning(0.5, Reinitialised("snip")),
    "recalibrated": lambda: GlobalL1Pruning(0.5, recalibrate=5, **GRADUAL),
}


def build() -> Classifier:
    torch.manual_seed(5)
    net: Any = conv_net()
    net.drop.p = 0.0  # a resumed process does not have the random state of the one that was stopped
    return Classifier(net)


def fit(model: Any, *callbacks: Callback, **options: Any) -> Any:
    ckpt_path = options.pop("ckpt_path", None)
    trainer = quiet_trainer(callbacks=list(callbacks), **options)
    trainer.fit(model, Batches(), ckpt_path=ckpt_path, weights_only=True)
    return trainer


@pytest.mark.parametrize("kind", KINDS)
def test_a_resumed_run_is_bit_identical(tmp_path: Path, kind: str) -> None:
    model, pruner = build(), KINDS[kind]()
    expected = final(fit(model, pruner, Saver(tmp_path), max_epochs=4), model)
    assert pruner.report().masked == pytest.approx(0.5 * 626, abs=2 if pruner.structure is None else 9)
    for name in ("step-2", "step-9", "epoch-1"):
        resumed = build()
        trainer = fit(resumed, KINDS[kind](), max_epochs=4, ckpt_path=tmp_path / f"{name}.ckpt")
        assert_same(final(trainer, resumed), expected)


def test_the_criterion_decides() -> None:
    """All kinds prune different weights, in the first step of the same model."""
    masks = []
    for criterion in ("magnitude", "taylor", "fisher", "snip", "grasp", "synflow", Shuffled("magnitude")):
        model = build()
        fit(model, Pruning(0.5, criterion), max_steps=1)
        masks.append(torch.cat([current_mask(ref).flatten() for ref in weight_layers(model)]))
    for number, mask in enumerate(masks):
        assert int((~mask).sum()) == 313
        assert not any(torch.equal(mask, other) for other in masks[:number])


def test_movement_prunes_what_moves_towards_zero() -> None:
    """Masks equal those of sums that a callback of one's own adds up."""

    class Sums(Callback):
        def __init__(self) -> None:
            self.sums: dict[str, Tensor] = {}
            self.masks: dict[str, Tensor] = {}

        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            if trainer.global_step < 4:
                for ref in weight_layers(pl_module):
                    now = (ref.tensor * ref.tensor.grad).detach()  # type: ignore[operator]
                    self.sums[ref.name] = self.sums.get(ref.name, 0) - now
            if trainer.global_step == 4:
                self.masks = {ref.name: current_mask(ref) for ref in weight_layers(pl_module)}

    model, sums = build(), Sums()
    fit(model, Pruning(0.5, "movement", start_step=4), sums, max_epochs=2)
    wanted = compute_masks(weight_layers(build()), 0.5, lambda _: sums.sums.values())
    assert wanted.keys() == sums.masks.keys()
    assert all(torch.equal(mask, sums.masks[name]) for name, mask in wanted.items())


def test_a_criterion_sees_gradients_before_they_are_masked() -> None:
    seen: list[bool] = []

    class Sees(Movement):
        def observe(self, names: Any, weights: Any) -> None:
            seen.append(all((weight.grad[weight == 0] != 0).any() for weight in weights))
            super().observe(names, weights)

    class Masked(Callback):
        def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
            weights = [ref.tensor for ref in weight_layers(pl_module)]
            seen.append(any((weight.grad[weight == 0] != 0).any() for weight in weights))  # type: ignore[index]

    fit(build(), Pruning(0.5, Sees()), Masked(), max_steps=2)
    assert seen == [True, False] * 2


def test_movement_starts_again_with_another_model() -> None:
    pruner = Pruning(0.5, "movement", start_step=2)
    models = [build(), build()]
    for model in models:
        fit(model, pruner, max_steps=4)
    assert not moved(snapshot(models[0]), snapshot(models[1]))


def test_measuring_changes_masks_alone() -> None:
    """A run that prunes nothing visible, by data, is the run without it."""
    plain, measured = build(), build()
    fit(plain, GlobalL1Pruning(0.5, start_step=3))

    class SameScores(Taylor):
        def __call__(self, weights: Any) -> Any:
            assert len(super().__call__(weights)) == 3
            return (weight.abs() for weight in weights)

    fit(measured, Pruning(0.5, SameScores(3), start_step=3))
    assert not moved(snapshot(plain), snapshot(measured))


def test_reinitialised_weights_are_those_of_the_layer() -> None:
    class First(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            weights.append([ref.tensor.detach().clone() for ref in weight_layers(pl_module)])

    weights: list[list[Tensor]] = []
    before = [ref.tensor.detach().clone() for ref in weight_layers(build())]
    for criterion in (Reinitialised("magnitude", 1), "magnitude"):
        fit(build(), Pruning(0.5, criterion), First(), max_steps=1)
    for old, new, plain in zip(before, *weights, strict=True):
        assert torch.equal(new != 0, plain != 0)  # the same masks
        assert not torch.equal(new, plain)
        assert {*new[new != 0].tolist()} <= {*old.flatten().tolist()}


def test_weights_are_drawn_again_only_once() -> None:
    """A second training of a pruned network keeps its weights."""
    model = build()
    fit(model, Pruning(0.5, Reinitialised("magnitude")), max_steps=2)
    masks = [ref.tensor != 0 for ref in weight_layers(model)]
    kept: list[bool] = []

    class First(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            pairs = zip(before, weight_layers(pl_module), strict=True)
            kept.append(all(torch.equal(old, ref.tensor) for old, ref in pairs))

    before = [ref.tensor.detach().clone() for ref in weight_layers(model)]
    fit(model, Pruning(0.5, Reinitialised("magnitude")), First(), max_steps=1)
    assert kept == [True]
    assert all(torch.equal(ref.tensor != 0, mask) for ref, mask in zip(weight_layers(model), masks, strict=True))


def test_movement_ignores_gradients_of_frozen_layers() -> None:
    for thaw in (None, 2):
        pruner = Pruning(0.5, "movement", start_step=100)
        fit(build(), pruner, LayerFreezing(layers="net.conv1", unfreeze_epoch=thaw), max_epochs=2)
        sums = pruner.criterion.state_dict()
        assert not sums["net.conv1"].any()
        assert sums["net.conv2"].all()


def test_a_training_step_may_take_any_arguments() -> None:
    class Starred(Classifier):
        def training_step(self, *args: Any) -> Any:
            return super().training_step(*args)

    models: list[Any] = []
    for kind in (Classifier, Starred):
        torch.manual_seed(5)
        models.append(kind(mlp()))
        fit(models[-1], Pruning(0.5, "taylor"), max_steps=2)
    assert not moved(snapshot(models[0]), snapshot(models[1]))


def test_recalibration_follows_pruning() -> None:
    class First(Callback):
        def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            if trainer.global_step:
                return
            norm, conv = pl_module.net.bn1, pl_module.net.conv1
            means.append(norm.running_mean.clone())
            maps = conv(Batches().images[:3].flatten(0, 1))
            assert (conv.weight == 0).any()
            means.append(maps.mean((0, 2, 3)))

    means: list[Tensor] = []
    for batches in (0, 3):
        fit(build(), GlobalL1Pruning(0.5, recalibrate=batches, start_step=0), First(), max_steps=1)
    assert not means[0].any()
    torch.testing.assert_close(means[2], means[3], rtol=1e-5, atol=1e-6)


def test_a_rewound_model_is_not_recalibrated() -> None:
    ends = []
    for batches in (0, 3):
        model = build()
        fit(model, GlobalL1Pruning(0.5, start_epoch=1, rewind_to=0, recalibrate=batches))
        ends.append(snapshot(model))
    assert not moved(*ends)


class OwnData(Classifier):
    """A model whose images differ between processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


def train(rank: int, folder: Path, kind: str) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    model = OwnData(conv_net())
    trainer = quiet_trainer(strategy="ddp", devices=2, max_epochs=4, callbacks=KINDS[kind]())
    trainer.fit(model, Batches())
    torch.save(snapshot(model), folder / f"{rank}.pt")


@pytest.mark.parametrize("kind", ["fisher", "synflow", "shuffled movement"])
@pytest.mark.gate
def test_processes_have_equal_weights(tmp_path: Path, kind: str) -> None:
    run_ddp(train, tmp_path, kind)
    ours, theirs = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert {name for name in moved(ours, theirs) if not name.startswith(("net.bn1.", "net.bn2."))} == set()
    assert sum(int((value == 0).sum()) for name, value in ours.items() if name.endswith("weight")) >= 313


@pytest.mark.parametrize(
    ("pruning", "model", "message"),
    [
        (lambda: Pruning(0.5, "taylor"), TwoOptimizers, "automatic optimization with the criterion Taylor"),
        (lambda: Pruning(0.5, "movement"), TwoOptimizers, "automatic optimization with the criterion Movement"),
        (lambda: GlobalL1Pruning(0.5, recalibrate=1), TwoOptimizers, "automatic optimization with `recalibrate`"),
        (lambda: GlobalL1Pruning(0.5, recalibrate=-1), build, "`recalibrate` to be a non-negative integer"),
        (lambda: GlobalL1Pruning(0.5, recalibrate=True), build, "`recalibrate` to be a non-negative integer"),
        (lambda: Pruning(0.5, Reinitialised("snip"), start_epoch=1), build, "to prune once and at the start"),
        (lambda: Pruning(0.5, Reinitialised("snip"), end_epoch=2), build, "to prune once and at the start"),
        (lambda: Pruning(0.5, "tailor"), build, "did you mean `taylor`"),
    ],
)
def test_what_cannot_work_is_refused(pruning: Any, model: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        fit(model(), pruning())


def test_without_a_trainer_there_is_no_data() -> None:
    with pytest.raises(InputError, match="a criterion that needs no data, but got Taylor"):
        Pruning(0.5, "taylor").prune(Classifier(mlp()))
    Pruning(0.5, "movement").prune(model := Classifier(mlp()))
    assert any(isinstance(layer, nn.Linear) and (layer.weight == 0).any() for layer in model.modules())
