"""Pruning callbacks in a Trainer: one suite for all of them, with and without rewinding."""

import copy
import pickle
import re
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_prune.callbacks import (
    GlobalL1Pruning,
    GlobalRandomPruning,
    LocalL1Pruning,
    Pruning,
    PruningRemoval,
    SparsityMonitor,
)
from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.masking import masked_parameters
from lit_prune.functional.packing import unpack_masks
from tests.callbacks.criteria import CRITERIA, DYNAMIC, PRUNERS, pruned_at
from tests.callbacks.models import (
    Batches,
    Classifier,
    MisleadingNames,
    Tied,
    Transformer,
    TwoOptimizers,
    conv_net,
    mlp,
    moved,
    quiet_trainer,
    snapshot,
)

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

every_pruner = pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
changing_too = pytest.mark.parametrize("pruner", [*PRUNERS.values(), *DYNAMIC.values()], ids=[*PRUNERS, *DYNAMIC])
every_criterion = pytest.mark.parametrize("pruner", CRITERIA.values(), ids=CRITERIA)


def zeros(model: nn.Module) -> int:
    return sum(int((ref.tensor == 0).sum()) for ref in weight_layers(model))


def count(model: nn.Module) -> int:
    return sum(ref.tensor.numel() for ref in weight_layers(model))


class Watch(Callback):
    """Counts zero weights before every training and validation batch."""

    def __init__(self) -> None:
        self.training: list[tuple[int, int]] = []
        self.validation: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.training.append((trainer.current_epoch, zeros(pl_module)))

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if not trainer.sanity_checking:
            self.validation.append((trainer.current_epoch, zeros(pl_module)))


def fit(model: LightningModule, *callbacks: Callback, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks=list(callbacks), **kwargs)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    return trainer


@every_pruner
@pytest.mark.parametrize("first", [True, False])
def test_every_batch_of_an_epoch_sees_the_sparsity_of_that_epoch(pruner: Any, first: bool) -> None:
    model, watch = Classifier(conv_net()), Watch()
    pruning = pruner(0.8, start_epoch=1, end_epoch=3, schedule="linear")
    fit(model, *((pruning, watch) if first else (watch, pruning)), max_epochs=5)
    levels = [pruned_at(pruning, model, level) for level in (0.0, 0.0, 0.4, 0.8, 0.8)]
    assert watch.validation == [(epoch, levels[epoch]) for epoch in range(5) for _ in range(2)]
    assert watch.training == [(epoch, levels[epoch]) for epoch in range(5) for _ in range(4)]
    assert zeros(model) == levels[-1]
    assert prune.is_pruned(model)


@changing_too
def test_only_weights_of_convolutions_and_linear_layers_are_pruned(pruner: Any) -> None:
    model: Any = Classifier(conv_net())
    fit(model, pruner(0.6))
    for name, tensor in model.state_dict().items():
        if name in {"net.conv1.weight", "net.conv2.weight", "net.fc.weight"}:
            assert (tensor == 0).any()
        elif name.endswith(("bn1.weight", "bn2.weight", "conv2.bias", "fc.bias")):
            assert (tensor != 0).all()
    masked = [name for name, module in model.named_modules() if masked_parameters(module)]
    assert masked == ["net.conv1", "net.conv2", "net.fc"]
    assert list(model.state_dict()) == list(Classifier(conv_net()).state_dict())


@changing_too
def test_layers_and_exclude_choose_the_weights(pruner: Any) -> None:
    model: Any = Classifier(conv_net())
    fit(model, pruner(0.5, layers=["*.conv*"], exclude=["*.conv2"]))
    assert int((model.net.conv1.weight == 0).sum()) == 81
    assert not (model.net.conv2.weight == 0).any()
    assert not (model.net.fc.weight == 0).any()


def test_two_pruners_share_a_model() -> None:
    model: Any = Classifier(conv_net())
    fit(model, GlobalL1Pruning(0.5, layers=["*.conv*"]), GlobalRandomPruning(0.25, exclude=["*.conv*"]))
    assert int((model.net.fc.weight == 0).sum()) == 8
    assert int((model.net.conv1.weight == 0).sum() + (model.net.conv2.weight == 0).sum()) == (162 + 432) // 2


@every_criterion
@pytest.mark.parametrize("schedule", [{}, {"start_epoch": 7}, {"start_epoch": 1, "end_epoch": 3}])
def test_a_model_can_be_pruned_without_a_trainer(pruner: Any, schedule: dict[str, int]) -> None:
    model: Any = Classifier(conv_net())
    before = snapshot(model)
    pruning = pruner(0.5, exclude=["*.fc"], **schedule)
    pruning.prune(model)
    chosen = (model.net.conv1, model.net.conv2)
    assert sum(int((layer.weight == 0).sum()) for layer in chosen) == (162 + 432) // 2
    assert all(prune.is_pruned(layer) for layer in chosen)
    assert not prune.is_pruned(model.net.fc)
    # chosen weights are zero or unchanged, everything else is unchanged
    after = {name: tensor for name, tensor in snapshot(model).items() if name in before}
    assert moved(before, after) == {"net.conv1.weight", "net.conv2.weight"}
    for name, layer in (("net.conv1", chosen[0]), ("net.conv2", chosen[1])):
        kept = layer.weight != 0
        assert torch.equal(layer.weight[kept], before[f"{name}.weight"][kept])
        assert torch.equal(pruning.ever_pruned[name], ~kept)
        assert kept.any()


def test_the_smallest_weights_are_pruned_without_a_trainer() -> None:
    model: Any = Classifier(conv_net())
    sizes = torch.cat([ref.tensor.detach().abs().flatten() for ref in weight_layers(model)])
    pruning = GlobalL1Pruning(0.3)
    pruning.prune(model)
    kept = torch.cat([getattr(ref.module, ref.parameter).detach().flatten() for ref in weight_layers(model)]) != 0
    assert int((~kept).sum()) == round(0.3 * count(model))
    assert sizes[~kept].max() <= sizes[kept].min()


def test_bad_choices_are_refused_without_a_trainer() -> None:
    model: Any = Classifier(conv_net())
    before = snapshot(model)
    with pytest.raises(InputError, match=r"^Expected "):
        GlobalL1Pruning(0.5, layers=["nowhere"]).prune(model)
    with pytest.raises(InputError, match=r"^Expected "):
        GlobalL1Pruning(0.8, max_layer_sparsity=0.5).prune(model)
    assert not moved(before, snapshot(model))


@changing_too
@pytest.mark.parametrize("stage", ["validate", "test"])
def test_evaluation_changes_nothing(pruner: Any, stage: str) -> None:
    model: Any = Classifier(conv_net())
    before = snapshot(model)
    trainer = quiet_trainer(callbacks=[pruner(0.5), PruningRemoval(0)])
    getattr(trainer, stage)(model, Batches(2), verbose=False)
    assert not moved(before, snapshot(model))
    assert not prune.is_pruned(model)


@every_pruner
@pytest.mark.parametrize("weights_only", [True, False])
def test_checkpoints_are_portable(tmp_path: Path, pruner: Any, weights_only: bool) -> None:
    model: Any = Classifier(conv_net())
    saver = ModelCheckpoint(tmp_path, "{epoch}", save_top_k=-1, save_weights_only=weights_only)
    pruning = pruner(0.8, end_epoch=2)
    trainer = quiet_trainer(callbacks=[pruning, saver], enable_checkpointing=True, max_epochs=3)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    last = torch.load(tmp_path / "epoch=2.ckpt", weights_only=True)
    assert list(last["state_dict"]) == list(Classifier(conv_net()).state_dict())
    plain = Classifier(conv_net())
    plain.load_state_dict(last["state_dict"], strict=True)
    assert zeros(plain) == pruned_at(pruning, plain, 0.8)
    assert not prune.is_pruned(plain)
    bare = Classifier.load_from_checkpoint(tmp_path / "epoch=2.ckpt", net=conv_net())
    assert not moved(snapshot(plain), snapshot(bare))

    # an older, less sparse checkpoint in the same process, with the masked model and the same trainer
    for epoch in (0, 1, 2):
        file = tmp_path / f"epoch={epoch}.ckpt"
        expected = Classifier(conv_net())
        expected.load_state_dict(torch.load(file, weights_only=True)["state_dict"])
        # epoch 0 has no zeros, epoch 1 has some of them
        warns = (
            pytest.warns(UserWarning, match="only .* of the loaded weights are zero") if epoch < 2 else nullcontext()
        )
        with warns:
            got = trainer.test(model, Batches(3), ckpt_path=file, verbose=False, weights_only=True)
        assert zeros(model) == zeros(expected)
        assert got == quiet_trainer().test(expected, Batches(3), verbose=False)


@every_pruner
def test_the_best_checkpoint_has_the_score_of_its_validation(tmp_path: Path, pruner: Any) -> None:
    model: Any = Classifier(conv_net())
    saver: Any = ModelCheckpoint(tmp_path, monitor="val_loss")
    trainer = quiet_trainer(callbacks=[saver, pruner(0.8, end_epoch=3)], enable_checkpointing=True, max_epochs=4)
    trainer.fit(model, Batches(), Batches(2, seed=1))
    fresh = Classifier(conv_net())
    fresh.load_state_dict(torch.load(saver.best_model_path, weights_only=True)["state_dict"])
    (result,) = quiet_trainer().validate(fresh, Batches(2, seed=1), verbose=False)
    assert result["val_loss"] == pytest.approx(float(saver.best_model_score), abs=1e-7)


@every_pruner
@pytest.mark.parametrize(
    "net", [MisleadingNames, Tied, Transformer, mlp, conv_net, lambda: conv_net().to(memory_format=torch.channels_last)]
)
def test_any_network_keeps_its_sparsity_and_trains(pruner: Any, net: Any) -> None:
    model: Any = Classifier(net())
    watch, pruning = Watch(), pruner(0.5)
    before = snapshot(model)
    fit(model, pruning, watch)
    last = [number for epoch, number in watch.training if epoch == 1]
    assert last == [pruned_at(pruning, model, 0.5)] * 4
    weights = {ref.parameter_name for ref in weight_layers(model)}
    assert weights <= moved(before, snapshot(model))
    twin: Any = copy.deepcopy(model.net)
    images = torch.randn(2, 3, 8, 8)
    assert torch.equal(twin.eval()(images), model.net.eval()(images))
    pickle.dumps(model.net)


@changing_too
def test_layers_from_configure_model_are_found(pruner: Any) -> None:
    model, pruning = Classifier(net_in_hook=conv_net), pruner(0.5)
    fit(model, pruning)
    assert zeros(model) == pruned_at(pruning, model, 0.5)
    with pytest.raises(InputError, match=r"^Expected every pattern in `layers` to match a layer with a weight"):
        fit(Classifier(net_in_hook=conv_net), pruner(0.5, layers=["*.conv3"]))


@every_pruner
def test_optimizers_see_unmasked_parameter_names(pruner: Any) -> None:
    names: list[list[str]] = []

    class Named(Classifier):
        def configure_optimizers(self) -> Any:
            names.append([name for name, _ in self.named_parameters()])
            return super().configure_optimizers()

    model: Any = Named(conv_net())
    fit(model, pruner(0.5))
    assert prune.is_pruned(model)
    masks = {ref.name: current_mask(ref) for ref in weight_layers(model)}
    fit(model, pruner(0.5))
    assert names[0] == names[1]
    assert all(torch.equal(current_mask(ref), masks[ref.name]) for ref in weight_layers(model))


@pytest.mark.parametrize("pruner", [PRUNERS[name] for name in ("global-l1", "local-rewinding")])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"precision": "bf16-mixed"},
        {"precision": "bf16-true"},
        {"precision": "64-true"},
        {"accumulate_grad_batches": 3, "gradient_clip_val": 0.1},
    ],
)
def test_precision_accumulation_and_clipping(pruner: Any, kwargs: dict[str, Any]) -> None:
    model, watch, pruning = Classifier(mlp()), Watch(), pruner(0.6, end_epoch=1)
    before = snapshot(model)
    fit(model, pruning, watch, **kwargs)
    assert zeros(model) == pruned_at(pruning, model, 0.6)
    assert {value for epoch, value in watch.training if epoch == 1} == {zeros(model)}
    assert moved({k: v.float() for k, v in before.items()}, {k: v.float() for k, v in snapshot(model).items()})


@every_pruner
def test_two_optimizers(pruner: Any) -> None:
    model, watch, pruning = TwoOptimizers(), Watch(), pruner(0.6, start_epoch=1)
    fit(model, pruning, SparsityMonitor(), watch, max_epochs=3)
    assert {value for epoch, value in watch.training if epoch > 0} == {pruned_at(pruning, model, 0.6)}
    for optimizer in model.trainer.optimizers:
        for ref in weight_layers(model):
            pruned = ~current_mask(ref)
            for value in optimizer.state.get(ref.tensor, {}).values():
                if value.shape == pruned.shape:
                    assert not value[pruned].any()


@every_pruner
def test_masked_values_stay_zero_with_an_optimizer_that_moves_zeros(pruner: Any) -> None:
    class Restless(torch.optim.SGD):
        def step(self, closure: Any = None) -> Any:
            loss = super().step(closure)
            for parameter in self.param_groups[0]["params"]:
                parameter.data.add_(0.01)
            return loss

    class Model(Classifier):
        def configure_optimizers(self) -> Any:
            return Restless(self.parameters(), lr=0.1)

    model: Any = Model(mlp())
    pruning = pruner(0.6)
    fit(model, pruning)
    assert zeros(model) == pruned_at(pruning, model, 0.6)
    for ref in weight_layers(model):
        assert not ref.tensor[~current_mask(ref)].any()


@pytest.mark.gate
def test_a_compiled_module_trains_like_an_eager_one() -> None:
    def run(compiled: bool) -> dict[str, Tensor]:
        torch._dynamo.reset()
        torch.manual_seed(3)
        model: Any = Classifier(mlp())
        if compiled:
            model.net.compile(backend="aot_eager")
        fit(model, GlobalL1Pruning(0.6, start_epoch=1, end_epoch=2), max_epochs=3)
        assert zeros(model) == round(0.6 * count(model))
        return snapshot(model)

    torch.testing.assert_close(run(True), run(False))


def test_a_warning_names_a_layer_that_is_about_to_become_zero() -> None:
    model: Any = Classifier(mlp())
    model.net[1].weight.data.mul_(1e-9)
    with pytest.warns(UserWarning, match=r"^Layer `net\.1` is about to become entirely zero"):
        fit(model, GlobalL1Pruning(0.95))
    model = Classifier(mlp())
    model.net[1].weight.data.mul_(1e-9)
    fit(model, GlobalL1Pruning(0.9, max_layer_sparsity=0.95))
    assert zeros(model) == round(0.9 * count(model))


@every_pruner
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(
            ({"amount": amount}, f"`amount` in [0, 1), but got {amount}. ")
            for amount in (-0.1, 1.0, 1.5, float("nan"), "a")
        ),
        ({"start_epoch": 3, "end_epoch": 2}, "`end_epoch` to be at least `start_epoch`, which is 3, but got 2"),
        ({"start_epoch": -1}, "`start_epoch` to be a non-negative integer, but got -1"),
        ({"end_epoch": -1}, "`end_epoch` to be a non-negative integer, but got -1"),
        ({"schedule": "exp"}, "'geometric', but got 'exp'"),
        ({"every_n_epochs": 0}, "`every_n_epochs` to be a positive integer, but got 0"),
        ({"every_n_epochs": 1.5}, "`every_n_epochs` to be a positive integer, but got 1.5"),
        ({"rewind_to": -1}, "`rewind_to` to be a non-negative integer, but got -1"),
        ({"rewind_to": "initial"}, "`rewind_to` to be a non-negative integer, but got initial"),
        (
            {"rewind_to": 2, "start_epoch": 2},
            "`rewind_to` to be less than 2, the first epoch in which weights are pruned, but got 2",
        ),
        (
            {"rewind_to": 3, "start_epoch": 1, "end_epoch": 5, "every_n_epochs": 2},
            "`rewind_to` to be less than 3, the first epoch in which weights are pruned, but got 3",
        ),
        ({"layers": ""}, "`layers` to name layers, but got an empty name"),
    ],
)
def test_bad_arguments_are_refused(pruner: Any, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        pruner(**({"amount": 0.5} | arguments))


def test_only_global_pruning_takes_a_limit_on_layers() -> None:
    class Own(Pruning):
        def __init__(self, amount: float, **options: Any) -> None:
            super().__init__(amount, allocation="uniform", **options)

    cases = [
        (GlobalL1Pruning, 0, "`max_layer_sparsity` in (0, 1], but got 0"),
        (Own, 0.9, "no `max_layer_sparsity`"),
        (LocalL1Pruning, 0.9, "no `max_layer_sparsity`"),
    ]
    for pruner, limit, message in cases:
        with pytest.raises(InputError, match=re.escape(message)):
            pruner(0.5, max_layer_sparsity=limit)
    model, pruning = Classifier(conv_net()), Own(0.5)
    fit(model, pruning)
    assert [int((ref.module.weight == 0).sum()) for ref in weight_layers(model)] == [81, 216, 16]


def test_bad_selections_are_refused_before_training() -> None:
    model: Any = Classifier(conv_net())
    cases: list[tuple[list[Callback], str]] = [
        ([GlobalL1Pruning(0.5, layers=["net.conv9"])], "every pattern in `layers` to match a layer with a weight"),
        ([GlobalL1Pruning(0.5, exclude=["*"])], "at least one layer with a weight to choose"),
        (
            [GlobalL1Pruning(0.5), GlobalRandomPruning(0.5, layers=["*.fc"])],
            "that choose different weights, but got two that choose layer `net.fc`",
        ),
        (
            [GlobalL1Pruning(0.5, start_epoch=1, max_layer_sparsity=0.4)],
            "`max_layer_sparsity` to leave room for an `amount` of 0.5, but got 0.4",
        ),
        (
            [
                GlobalL1Pruning(0.5, start_epoch=3, rewind_to=0, layers=["*.fc"]),
                GlobalL1Pruning(0.5, start_epoch=3, rewind_to=2, exclude=["*.fc"]),
            ],
            "callbacks that rewind to the same epoch, but got `rewind_to` 0 and 2",
        ),
    ]
    for callbacks, message in cases:
        before = snapshot(model)
        with pytest.raises(InputError, match=re.escape(message)):
            fit(model, *callbacks)
        assert not moved(before, snapshot(model))


def test_strategies_that_shard_parameters_are_refused() -> None:
    class FSDPStrategy:
        pass

    class Trainer:
        strategy = FSDPStrategy()
        callbacks: tuple[Callback, ...] = ()

    trainer: Any = Trainer()
    for callback in (GlobalL1Pruning(0.5), PruningRemoval(0), SparsityMonitor()):
        with pytest.raises(InputError, match=r"a strategy that .* supports, but got FSDPStrategy"):
            callback.setup(trainer, Classifier(conv_net()), "fit")


def test_a_checkpoint_of_another_selection_is_refused(tmp_path: Path) -> None:
    fit(Classifier(conv_net()), GlobalL1Pruning(0.5)).save_checkpoint(tmp_path / "a.ckpt")
    state = torch.load(tmp_path / "a.ckpt", weights_only=True)
    (key,) = (key for key in state["callbacks"] if key.startswith("GlobalL1Pruning"))
    masks = state["callbacks"][key]["masks"]
    masks["net.conv9"] = masks.pop("net.conv1")
    torch.save(state, tmp_path / "a.ckpt")
    trainer = quiet_trainer(max_epochs=4, callbacks=[GlobalL1Pruning(0.5)])
    with pytest.raises(InputError, match=r"weight of `net.conv9`, .*, but got no such weight among the chosen ones"):
        trainer.fit(Classifier(conv_net()), Batches(), Batches(2), ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_the_global_random_state_is_not_changed() -> None:
    model, states = Classifier(mlp()), []

    class Note(Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            states.append(torch.get_rng_state())

    fit(model, Note(), GlobalRandomPruning(0.5), Note(), max_epochs=1)
    assert torch.equal(states[0], states[1])


def test_a_trainer_of_pytorch_lightning() -> None:
    class Model(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = conv_net()

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    def run(*callbacks: Any) -> tuple[Model, Any]:
        model: Any = Model()
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            max_epochs=2,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=list(callbacks),
        )
        trainer.fit(model, Batches())
        return model, trainer

    model, trainer = run(SparsityMonitor(), GlobalRandomPruning(0.5))
    assert zeros(model) == round(0.5 * count(model))
    assert float(trainer.callback_metrics["sparsity/global"]) == pytest.approx(0.5, abs=1e-3)
    model, _ = run(PruningRemoval(1), GlobalL1Pruning(0.5))
    assert not prune.is_pruned(model)
    average: Any = pytorch_lightning.callbacks.WeightAveraging()
    model, _ = run(GlobalL1Pruning(0.5, start_epoch=1), average)
    assert zeros(model) == round(0.5 * count(model))


def test_masks_are_right_after_a_learning_rate_finder(tmp_path: Path) -> None:
    class Tunable(Classifier):
        lr = 0.01

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    model, watch = Tunable(mlp()), Watch()
    finder = LearningRateFinder(num_training_steps=6)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        fit(model, GlobalL1Pruning(0.5, start_epoch=1), finder, watch, default_root_dir=tmp_path, max_epochs=3)
    assert set(watch.training) == {(0, 0), (1, round(0.5 * count(model))), (2, round(0.5 * count(model)))}


def test_masks_are_right_after_a_learning_rate_finder_in_a_later_epoch(tmp_path: Path) -> None:
    """`lr_find` restores a checkpoint within `fit`."""

    class Milestones(LearningRateFinder):
        def on_fit_start(self, *_: Any) -> None:
            pass

        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == 2:
                self.lr_find(trainer, pl_module)

    class Tunable(Classifier):
        lr = 0.01

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=self.lr)

    model, pruner = Tunable(mlp()), GlobalL1Pruning(0.8, end_epoch=4, schedule="linear")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning)
        fit(model, pruner, Milestones(num_training_steps=5), default_root_dir=tmp_path, max_epochs=6)
    assert zeros(model) == round(0.8 * count(model))
    saved = unpack_masks(pruner.state_dict()["masks"])
    assert sum(int((~mask).sum()) for mask in saved.values()) == zeros(model)


def test_masks_of_a_failed_resume_are_forgotten(tmp_path: Path) -> None:
    class Fails(Callback):
        def on_fit_start(self, *_: Any) -> None:
            raise KeyError

    def trainer(pruner: Any, *callbacks: Any) -> Any:
        return quiet_trainer(callbacks=[*callbacks, pruner], max_epochs=1)

    first = trainer(GlobalL1Pruning(0.5))
    first.fit(Classifier(mlp()), Batches(), Batches(seed=1))
    first.save_checkpoint(tmp_path / "last.ckpt")
    pruner, model = GlobalL1Pruning(0.5, start_epoch=3), Classifier(mlp())
    with pytest.raises(KeyError):
        trainer(pruner, Fails()).fit(
            Classifier(mlp()), Batches(), Batches(seed=1), ckpt_path=tmp_path / "last.ckpt", weights_only=True
        )
    trainer(pruner).fit(model, Batches(), Batches(seed=1))
    assert zeros(model) == 0


@given(st.integers(1, 60), st.integers(0, 99), st.integers(1, 99))
@example(30, 35, 30)
@settings(max_examples=200, deadline=None)
def test_a_fraction_of_a_layer_is_exact(size: int, share: int, amount: int) -> None:
    pruner = Pruning(amount / 100, allocation={"layer": share / 100})
    model: Any = BoringModel()
    model.layer = torch.nn.Linear(size, 1)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layers? .* entirely zero")
        pruner.prune(model)
    assert pruner.report().masked == round(share / 100 * size)


@pytest.mark.parametrize(("arguments", "said"), [({}, False), ({"start_epoch": 2}, True), ({"end_epoch": 2}, True)])
def test_a_schedule_that_training_does_not_reach_is_said(arguments: dict[str, Any], said: bool, caplog: Any) -> None:
    with caplog.at_level("INFO"):
        quiet_trainer([GlobalL1Pruning(0.5, **arguments)], max_epochs=2).fit(Classifier(mlp()), Batches(), Batches())
    sentence = "reaches `amount` in epoch 2, counted from 0, but training ends after 2 epochs."
    assert (sentence in caplog.text) == said
