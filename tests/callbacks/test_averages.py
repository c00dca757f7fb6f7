"""Averages of a pruned model are exactly as sparse as the model: what is validated, what is saved, and what is left."""

import copy
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import EMAWeightAveraging, StochasticWeightAveraging, WeightAveraging
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning, PruningRemoval
from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.masking import Mask, copy_masks, masks_of
from lit_prune.functional.packing import unpack_masks
from tests.callbacks.models import Batches, Classifier, conv_net, mlp, quiet_trainer, snapshot
from tests.callbacks.test_pruning_resume import Crash, Saver, assert_same

# typed as Any, because mypy does not know which modules and tensors a model contains
current_mask: Any = masking.current_mask
weight_layers: Any = selection.weight_layers

EPOCHS = 5

pytestmark = pytest.mark.filterwarnings(
    "ignore:You.re using the WeightAveraging callback with a model that overrides",
    "ignore:The '.*' does not have many workers",
)


class EveryEpoch(WeightAveraging):
    """The mean of the models at the ends of epochs."""

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return epoch_idx is not None


AVERAGING: dict[str, Callable[[], Callback]] = {
    "ema": lambda: EMAWeightAveraging(decay=0.9),
    "ema-from-step-6": lambda: EMAWeightAveraging(decay=0.8, update_every_n_steps=2, update_starting_at_step=6),
    "ema-from-epoch-2": lambda: EMAWeightAveraging(decay=0.5, update_every_n_steps=0, update_starting_at_epoch=2),
    "ema-without-buffers": lambda: EMAWeightAveraging(decay=0.9, use_buffers=False),
    "mean": lambda: WeightAveraging(),
    "mean-of-epochs": lambda: EveryEpoch(),
    "swa": lambda: StochasticWeightAveraging(0.05, swa_epoch_start=1),
    "swa-from-epoch-2": lambda: StochasticWeightAveraging(0.05, swa_epoch_start=3),
}
# before, at and after the start of the averages
PRUNING: dict[str, Callable[[], list[Callback]]] = {
    "first": lambda: [GlobalL1Pruning(0.6)],
    "later": lambda: [GlobalRandomPruning(0.5, start_epoch=2)],
    "gradual": lambda: [LocalL1Pruning(0.7, end_epoch=4)],
}


def build(seed: int = 5) -> Classifier:
    torch.manual_seed(seed)
    net: Any = conv_net()
    net.drop.p = 0.0  # a resumed process does not have the random state of the one that was stopped
    return Classifier(net)


def fit(model: Any, callbacks: list[Any], ckpt_path: Path | None = None, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks, **{"max_epochs": EPOCHS, **kwargs})
    trainer.fit(model, Batches(), Batches(2, seed=1), ckpt_path=ckpt_path, weights_only=True if ckpt_path else None)
    return trainer


def pruned_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    for ref in weight_layers(model):
        if (mask := current_mask(ref)) is not None:
            yield ref.parameter_name, ~mask


def assert_sparse(values: dict[str, Tensor], model: nn.Module) -> None:
    """Assert that values are zero, to the bit, where the model is pruned, and nowhere else."""
    masks = dict(pruned_weights(model))
    assert masks
    for name, pruned in masks.items():
        assert not values[name][pruned].view(torch.int32).any(), name
        assert values[name][~pruned].all(), name


class Judge(Callback):
    """Checks the weights of every validation batch and every training step; the last callback of a trainer."""

    def __init__(self) -> None:
        self.current: dict[str, Tensor] = {}
        self.averaged = 0

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.current = snapshot(pl_module)
        if any(True for _ in masks_of(pl_module)):
            assert_sparse(self.current, pl_module)

    def on_validation_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        if any(True for _ in masks_of(pl_module)):
            assert_sparse(pl_module.state_dict(), pl_module)
            self.averaged += not torch.equal(pl_module.net.fc.weight, self.current["net.fc.weight"])


# each kind of average with each schedule, and each schedule before and after an averaging callback
CASES = [(name, pruning, (i + j) % 2 == 0) for i, name in enumerate(AVERAGING) for j, pruning in enumerate(PRUNING)]


@pytest.mark.parametrize(("name", "pruning", "first"), CASES)
def test_what_is_validated_and_saved_is_exactly_as_sparse_as_the_model(
    tmp_path: Path, name: str, pruning: str, first: bool
) -> None:
    model, judge, averaging = build(), Judge(), AVERAGING[name]()
    callbacks = [averaging, *PRUNING[pruning]()]
    fit(model, [*callbacks[:: 1 if first else -1], judge, Saver(tmp_path)])
    assert_sparse(snapshot(model), model)
    swa = isinstance(averaging, StochasticWeightAveraging)
    # the average was validated, not the model; SWA copies its average into the model for an extra epoch at the end
    if swa:
        average: Any = averaging
        assert torch.equal(model.net.fc.weight, average._average_model.net.fc.weight)  # type: ignore[union-attr,arg-type]
    else:
        assert judge.averaged >= 2
    for file in sorted(tmp_path.glob("epoch-*.ckpt")) + sorted(tmp_path.glob("step-1*.ckpt")):
        saved = torch.load(file, weights_only=True)
        (masks,) = (state["masks"] for key, state in saved["callbacks"].items() if "Pruning" in key)
        if masks:
            masked = build()
            masking.apply_masks(masked, unpack_masks(masks))
            states = [saved["state_dict"]]
            states += [saved["current_model_state"]] if not swa else []
            states += [
                state["average_model_state"] for state in saved["callbacks"].values() if "average_model_state" in state
            ]
            assert len(states) == 2
            for state in states:
                assert_sparse(state, masked)


class Recorder(Callback):
    """Copies the weights of the model before each update of an average."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.seen.append(snapshot(pl_module))


def test_the_average_of_weights_that_are_not_pruned_is_the_documented_one() -> None:
    model, recorder = build(), Recorder()
    fit(model, [recorder, GlobalL1Pruning(0.6, end_epoch=3), EMAWeightAveraging(decay=0.9)])
    expected = recorder.seen[0]
    for seen in recorder.seen[1:]:
        expected = {name: 0.9 * value + (1 - 0.9) * seen[name] for name, value in expected.items()}
    masks = dict(pruned_weights(model))
    for name, value in model.named_parameters():
        pruned = masks.get(name, torch.zeros_like(value, dtype=torch.bool))
        assert torch.equal(value, expected[name].masked_fill(pruned, 0.0))
        assert not torch.equal(value, recorder.seen[-1][name])


def test_averages_of_callbacks_cost_nothing_in_a_training_step(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Mask] = []
    fit_mask = Mask.fit

    def count(mask: Mask, tensor: Tensor) -> Mask:
        calls.append(mask)  # each tensor that is cleared needs its mask once
        return fit_mask(mask, tensor)

    monkeypatch.setattr(Mask, "fit", count)

    def passes(batches: int, *averaging: Callback) -> int:
        calls.clear()
        fit(build(), [GlobalL1Pruning(0.5), *averaging], max_epochs=1, limit_train_batches=batches)
        return len(calls)

    alone = passes(4) - passes(1)
    assert alone == 3 * 3 * 2  # three steps more, three layers, their weights and gradients
    assert passes(4, EMAWeightAveraging(decay=0.9)) - passes(1, EMAWeightAveraging(decay=0.9)) == alone


RESUMED = [
    ("ema-from-step-6", "gradual"),
    ("ema-without-buffers", "later"),
    ("mean-of-epochs", "first"),
    ("swa", "gradual"),
]


def outcome(trainer: Any, model: nn.Module) -> Any:
    return {"weights": snapshot(model), "optimizer": trainer.optimizers[0].state_dict()}


@pytest.mark.parametrize(("name", "pruning"), RESUMED)
@pytest.mark.gate
def test_resuming_from_any_checkpoint_is_bit_identical(tmp_path: Path, name: str, pruning: str) -> None:
    model = build()
    expected = outcome(fit(model, [AVERAGING[name](), *PRUNING[pruning](), Saver(tmp_path)]), model)
    # not at an epoch's last batch, where Lightning's own averages of epochs miss the epoch
    for file in ["step-5", "step-10", "step-18", "epoch-0", "epoch-2"]:
        resumed = build(6)
        trainer = fit(resumed, [AVERAGING[name](), *PRUNING[pruning]()], tmp_path / f"{file}.ckpt")
        assert_same(outcome(trainer, resumed), expected)
        assert_sparse(snapshot(resumed), resumed)


@pytest.mark.parametrize(("name", "pruning"), RESUMED[:2])
def test_resuming_with_the_same_model_and_callbacks_after_a_crash(tmp_path: Path, name: str, pruning: str) -> None:
    model = build()
    expected = outcome(fit(model, [AVERAGING[name](), *PRUNING[pruning]()]), model)
    model, used = build(), [AVERAGING[name](), *PRUNING[pruning]()]
    with pytest.raises(RuntimeError, match="power cut"):
        fit(model, [*used, Saver(tmp_path), Crash()])
    for file in ["step-13", "step-3", "epoch-1"]:
        assert_same(outcome(fit(model, used, tmp_path / f"{file}.ckpt"), model), expected)


@pytest.mark.gate
def test_a_new_process_resumes_bit_identically(tmp_path: Path) -> None:
    def callbacks() -> list[Any]:
        return [EMAWeightAveraging(decay=0.9), GlobalL1Pruning(0.7, end_epoch=4)]

    model = build()
    expected = outcome(fit(model, [*callbacks(), Saver(tmp_path)]), model)
    code = f"""if True:
        import torch
        from tests.callbacks.test_averages import *
        model = build(7)
        callbacks = [EMAWeightAveraging(decay=0.9), GlobalL1Pruning(0.7, end_epoch=4)]
        trainer = fit(model, callbacks, {str(tmp_path / "step-10.ckpt")!r})
        torch.save(outcome(trainer, model), {str(tmp_path / "end.pt")!r})
    """
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    assert_same(torch.load(tmp_path / "end.pt", weights_only=True), expected)


def average_of(trainer: Any) -> Any:
    """Return the average of the callback of a trainer that has one."""
    (average,) = (
        found for callback in trainer.callbacks if (found := vars(callback).get("_average_model")) is not None
    )
    return average.module if isinstance(average, AveragedModel) else average


@pytest.mark.parametrize("name", ["ema", "mean-of-epochs", "swa"])
def test_averages_are_free_after_a_removal(name: str) -> None:
    model = build()
    trainer = fit(model, [AVERAGING[name](), GlobalL1Pruning(0.6, start_epoch=1), PruningRemoval(2)], max_epochs=6)
    for module in (model, average_of(trainer)):
        assert not prune.is_pruned(module)
        assert all((ref.tensor == 0).float().mean() < 0.05 for ref in weight_layers(module))


@pytest.mark.parametrize("name", ["ema", "mean-of-epochs", "swa"])
def test_a_removal_at_the_end_leaves_a_free_average_with_its_zeros(name: str) -> None:
    model = build()
    trainer = fit(model, [AVERAGING[name](), PruningRemoval("end"), GlobalL1Pruning(0.6, start_epoch=1)])
    for module in (model, average_of(trainer)):
        assert not prune.is_pruned(module)
        weights = [ref.tensor for ref in weight_layers(module)]
        assert sum(int((weight == 0).sum()) for weight in weights) == round(
            0.6 * sum(weight.numel() for weight in weights)
        )


@pytest.mark.parametrize("name", ["ema", "mean", "swa"])
def test_a_rewound_model_starts_a_new_average(name: str) -> None:
    class Note(Callback):
        rewound: dict[str, Tensor]
        average: dict[str, Tensor]

        def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
            if (trainer.current_epoch, batch_idx) == (3, 0):
                self.rewound, self.average = snapshot(pl_module), snapshot(average_of(trainer))

    model, note = build(), Note()
    fit(model, [AVERAGING[name](), GlobalL1Pruning(0.5, start_epoch=3, rewind_to=1), note])
    assert_same(dict(note.average), dict(note.rewound))
    assert_sparse(snapshot(model), model)


def test_masks_of_torch_are_those_of_averages_too(tmp_path: Path) -> None:
    def masked() -> Any:
        model: Any = build()
        prune.random_unstructured(model.net.conv2, "weight", 0.5)
        prune.random_unstructured(model.net.conv2, "bias", 2)
        return model

    def callbacks() -> list[Any]:
        # torch cannot copy a model with its masks, so that the average must come after the callback that adopts them
        return [GlobalL1Pruning(0.5, start_epoch=2, exclude="*.conv2"), EMAWeightAveraging(decay=0.9)]

    model = masked()
    zeros = model.net.conv2.weight_mask == 0
    expected = outcome(fit(model, [*callbacks(), Saver(tmp_path)]), model)
    assert_sparse(snapshot(model), model)
    assert torch.equal(model.net.conv2.weight == 0, zeros)
    assert int((model.net.conv2.bias == 0).sum()) == 2
    resumed = masked()
    assert_same(outcome(fit(resumed, callbacks(), tmp_path / "step-6.ckpt"), resumed), expected)


def test_one_averaging_callback_for_two_models_in_turn() -> None:
    used = [EMAWeightAveraging(decay=0.9), GlobalL1Pruning(0.5, start_epoch=1)]
    for net in (conv_net(), mlp(), conv_net()):
        model = Classifier(net)
        fit(model, used[::-1])
        assert_sparse(snapshot(model), model)


class WithAverages(Classifier):
    """Two networks of one class, with averages of both inside the module."""

    def __init__(self) -> None:
        super().__init__(conv_net())
        self.net: Any
        self.net.drop.p = 0.0
        self.other: Any = conv_net()
        self.other.drop.p = 0.0  # type: ignore[union-attr]
        self.average: Any = AveragedModel(self.net, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
        self.second: Any = AveragedModel(self.other)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images) + self.other(images)
        return logits

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        super().optimizer_step(*args, **kwargs)
        self.average.update_parameters(self.net)
        self.second.update_parameters(self.other)

    def configure_optimizers(self) -> Any:
        return torch.optim.Adam([*self.net.parameters(), *self.other.parameters()], 0.01)


@pytest.mark.parametrize("start_epoch", [0, 1])
def test_averages_inside_a_module_have_the_masks_of_what_they_average(tmp_path: Path, start_epoch: int) -> None:
    def start(seed: int) -> Any:
        torch.manual_seed(seed)
        return WithAverages()

    def callbacks() -> list[Any]:
        return [GlobalRandomPruning(0.6, start_epoch=start_epoch, end_epoch=3)]

    model = start(3)
    expected = outcome(fit(model, [*callbacks(), Saver(tmp_path)]), model)
    assert [ref.name.split(".")[0] for ref in weight_layers(model)] == ["net"] * 3 + ["other"] * 3
    for average, source in ((model.average.module, model.net), (model.second.module, model.other)):
        assert_sparse(snapshot(average), source)
        for mine, theirs in zip(average.parameters(), source.parameters(), strict=True):
            assert not torch.equal(mine, theirs)
            assert (mine - theirs).abs().max() < 0.5
    for file in ["step-6", "step-8", "epoch-1"]:
        resumed = start(4)
        assert_same(outcome(fit(resumed, callbacks(), tmp_path / f"{file}.ckpt"), resumed), expected)


def test_an_average_of_a_callback_contains_an_average_of_the_module() -> None:
    model = WithAverages()
    trainer = fit(model, [GlobalL1Pruning(0.6, start_epoch=1), EMAWeightAveraging(decay=0.9)])
    outer = average_of(trainer)
    for module, source in [
        (outer.net, model.net),
        (outer.average.module, model.net),
        (model.average.module, model.net),
    ]:
        assert_sparse(snapshot(module), source)


class OwnCallback(Callback):
    """An average of a part of the module, as a callback that others write: validated, and left in the model."""

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        self.average = AveragedModel(pl_module.net, multi_avg_fn=get_ema_multi_avg_fn(0.9))

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self.average.update_parameters(pl_module.net)


def test_an_average_of_a_part_of_the_module() -> None:
    model: Any = build()
    callback = OwnCallback()
    fit(model, [callback, GlobalL1Pruning(0.6, start_epoch=1)])
    assert_sparse(snapshot(callback.average.module), model.net)


class Shadow(Callback):
    """An average by name, which replaces the weights in validation and at the end, as many projects write it."""

    def __init__(self) -> None:
        self.shadow: dict[str, Tensor] = {}
        self.backup: dict[str, Tensor] = {}

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        for name, value in pl_module.named_parameters():
            before = self.shadow.get(name, value.detach())
            self.shadow[name] = 0.9 * before + 0.1 * value.detach()

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        if self.shadow:
            self.backup = snapshot(pl_module)
            pl_module.load_state_dict(self.shadow, strict=False)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        if self.shadow:
            pl_module.load_state_dict(self.backup)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        for name, value in pl_module.named_parameters():
            value.data = self.shadow[name]


@pytest.mark.parametrize("removal", [[], [PruningRemoval("end")]])
def test_averages_by_name_that_are_copied_into_the_model_become_sparse(removal: list[Any]) -> None:
    model, judge, shadow = build(), Judge(), Shadow()
    trainer = fit(model, [GlobalL1Pruning(0.6, start_epoch=2), *removal, shadow, judge])
    assert judge.averaged == 2 * (EPOCHS - 2)
    weights = [ref.tensor for ref in weight_layers(model)]
    assert sum(int((weight == 0).sum()) for weight in weights) == round(0.6 * sum(weight.numel() for weight in weights))
    assert bool(removal) != prune.is_pruned(model)
    assert trainer.callbacks


class Teacher(Classifier):
    """A student with a teacher inside the module, as a copy without gradients.

    Args:
        update: How the teacher follows the student: by "name", by "zip", or None for one that does not.
        share: Whether the teacher is given the student's masks in each epoch.
    """

    def __init__(self, update: str | None, share: bool = False) -> None:
        super().__init__(mlp())
        self.teacher: Any = copy.deepcopy(self.net).requires_grad_(False)  # type: ignore[union-attr]
        self.update, self.share = update, share

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        return self.loss(batch) + (self(batch[0]) - self.teacher(batch[0])).square().mean()  # type: ignore[no-any-return]

    def on_train_epoch_start(self) -> None:
        if self.share:
            copy_masks(self.net, self.teacher)  # type: ignore[arg-type]

    @torch.no_grad()
    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        with torch.enable_grad():
            super().optimizer_step(*args, **kwargs)
        net: Any = self.net
        if self.update == "name":
            student = net.state_dict()
            for name, value in self.teacher.state_dict().items():
                value.mul_(0.9).add_(student[name], alpha=0.1)
        elif self.update == "zip":
            for mine, theirs in zip(self.teacher.parameters(), net.parameters(), strict=True):
                mine.data = 0.9 * mine.data + 0.1 * theirs.data


@pytest.mark.parametrize("share", [False, True])
@pytest.mark.parametrize("update", ["name", "zip", None])
def test_teachers_follow_the_student_and_are_masked_only_on_request(
    tmp_path: Path, update: str | None, share: bool
) -> None:
    def start() -> Any:
        torch.manual_seed(3)
        return Teacher(update, share)

    def callbacks() -> list[Any]:
        return [GlobalL1Pruning(0.6, start_epoch=2, exclude="teacher")]

    model = start()
    first = snapshot(model.teacher)
    trainer = fit(model, [*callbacks(), Saver(tmp_path)])
    last = snapshot(model.teacher)
    assert prune.is_pruned(model.teacher) == share
    if share:
        assert_sparse(last, model.net)
    elif update is None:
        assert_same(last, first)
    else:  # pruned weights decay, by the factor of the average in each step, without a jump
        for name, pruned in pruned_weights(model.net):
            assert last[name][pruned].all()
            assert last[name][pruned].abs().mean() < 0.5 * first[name][pruned].abs().mean()
            assert (last[name] - model.net.state_dict()[name])[~pruned].abs().mean() < 0.1
    for file in ["step-6", "step-10", "epoch-2"]:
        resumed = start()
        assert_same(outcome(fit(resumed, callbacks(), tmp_path / f"{file}.ckpt"), resumed), outcome(trainer, model))


def test_masks_are_copied_to_an_average_or_refused() -> None:
    model = mlp()
    average = AveragedModel(model)
    masking.apply_masks(model, {"1": torch.rand(16, 192) > 0.5})
    copy_masks(model, average)
    assert_sparse(snapshot(average.module), model)
    with pytest.raises(InputError, match=r"but got one for `1.weight`, which has no weight in Linear"):
        copy_masks(model, nn.Linear(2, 2))
    # of an average by itself, weights can be chosen as of any model
    assert [ref.name for ref in weight_layers(average)] == [f"module.{ref.name}" for ref in weight_layers(model)]


def test_averages_of_pytorch_lightning() -> None:
    from pytorch_lightning import callbacks as old

    class Module(pytorch_lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net: Any = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))

        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return self.net(batch).square().mean()  # type: ignore[no-any-return]

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            assert_sparse(snapshot(self), self)

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), 0.1)

        def train_dataloader(self) -> Any:
            return torch.randn(4, 4, 8)

        val_dataloader = train_dataloader

    for averaging in [
        old.EMAWeightAveraging(decay=0.9),
        old.WeightAveraging(),
        old.StochasticWeightAveraging(0.05, swa_epoch_start=1),
    ]:
        model = Module()
        trainer = pytorch_lightning.Trainer(
            accelerator="cpu",
            max_epochs=3,
            callbacks=[averaging, GlobalL1Pruning(0.6)],  # type: ignore[list-item]
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model)
        assert_sparse(snapshot(model), model)
        assert_sparse(snapshot(average_of(trainer)), model)
