"""Logged metrics agree with the weights and gradients of the model."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing, PruningRemoval, SparsityMonitor
from lit_prune.callbacks._drawing import draw_masks
from lit_prune.callbacks.monitor import _is_sampled
from lit_prune.errors import InputError
from lit_prune.functional import apply_masks, selection
from tests.callbacks.models import Batches, Classifier, TwoOptimizers, mlp, moved, quiet_trainer, snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers


class Metrics(Callback):
    """Records the metrics at the end of each epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, float]] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.epochs.append({name: float(value) for name, value in trainer.callback_metrics.items()})


class Dead(nn.Module):
    """A layer whose second half of inputs is always zero, so its weights can never learn."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(192, 4)
        self.register_buffer("alive", torch.arange(192) < 96)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.fc(images.flatten(1) * self.get_buffer("alive"))
        return out


def run(model: Classifier, *callbacks: Callback, ckpt_path: Path | None = None, **kwargs: Any) -> tuple[Any, Metrics]:
    metrics = Metrics()
    trainer = quiet_trainer(callbacks=[*callbacks, metrics], **({"max_epochs": 4} | kwargs))
    trainer.fit(model, Batches(), Batches(2, seed=1), ckpt_path=ckpt_path, weights_only=True)
    return trainer, metrics


def test_every_metric_is_the_documented_fraction() -> None:
    model: Any = Classifier(mlp())
    total = sum(ref.tensor.numel() for ref in weight_layers(model))
    sparse = round(0.3 * total) / total
    _, metrics = run(model, SparsityMonitor(), PruningRemoval(3), GlobalL1Pruning(0.3, start_epoch=1))
    column = {name: [epoch[name] for epoch in metrics.epochs] for name in metrics.epochs[0]}
    assert column["sparsity/global"][:3] == pytest.approx([0, sparse, sparse])
    assert column["sparsity/masked"] == pytest.approx([0, sparse, sparse, 0])
    left = sum(int((ref.tensor == 0).sum()) for ref in weight_layers(model))
    assert column["sparsity/global"][3] == pytest.approx(left / total)
    assert column["sparsity/ever_pruned"] == pytest.approx([0, sparse, sparse, sparse])
    assert column["sparsity/regrown"] == pytest.approx([0, 0, 0, 1 - left / (sparse * total)])
    for ref in weight_layers(model):
        now = float((ref.tensor == 0).float().mean())
        assert column[f"sparsity/layer/{ref.name}"][3] == pytest.approx(now)
    assert column["gradient/untouched"][-1] < 0.05
    assert column["gradient/untouched_pruned"][0] == 0
    assert 0 <= column["gradient/untouched_pruned"][-1] <= column["gradient/untouched"][-1]


def test_untouched_and_pruned_are_counted_together() -> None:
    """A quarter of the weights that can never learn is pruned, and as many of the others."""
    model: Any = Classifier(Dead())
    weight = model.net.fc.weight.data
    weight[:] = 1
    weight[:, :24] = weight[:, 96:120] = 0.001
    _, metrics = run(model, SparsityMonitor(), GlobalL1Pruning(0.25, start_epoch=1), PruningRemoval(2))
    column = {name: [epoch[name] for epoch in metrics.epochs] for name in metrics.epochs[0]}
    # masks stop gradients, but weights that can learn received one in the first epoch
    assert column["gradient/untouched"] == [0.5] * 4
    assert column["gradient/untouched_pruned"] == [0, 0.125, 0.125, 0.125]
    assert column["sparsity/ever_pruned"] == [0, 0.25, 0.25, 0.25]
    # after the removal, only weights that can learn become non-zero
    assert column["sparsity/global"] == [0, 0.25, 0.125, 0.125]
    assert column["sparsity/regrown"] == [0, 0, 0.5, 0.5]


def test_untouched_weights_are_those_that_can_never_learn() -> None:
    _, metrics = run(Classifier(Dead()), SparsityMonitor())
    assert [epoch["gradient/untouched"] for epoch in metrics.epochs] == [0.5] * 4


def test_options_turn_metrics_off() -> None:
    _, metrics = run(Classifier(mlp()), SparsityMonitor(2, per_layer=False, gradient_coverage=False))
    assert metrics.epochs[0].keys() == {"val_loss"}
    sparsity = {"sparsity/global", "sparsity/masked", "sparsity/ever_pruned", "sparsity/regrown"}
    assert metrics.epochs[1].keys() == {"val_loss", "mask/changed", *sparsity}


@pytest.mark.parametrize("per_layer", [True, False])
def test_a_model_can_be_measured_without_training(per_layer: bool) -> None:
    model: Any = Classifier(mlp())
    model.net[7].weight.data.zero_()
    pruner = GlobalL1Pruning(0.5, layers=["net.1", "net.3"])
    monitor = SparsityMonitor(per_layer=per_layer)
    trainer = quiet_trainer(callbacks=[monitor, pruner])
    before = snapshot(model)
    assert monitor.measure(trainer, model)["sparsity/ever_pruned"] == 0
    assert not moved(before, snapshot(model))
    pruner.prune(model)
    metrics = monitor.measure(trainer, model)
    layers = {f"sparsity/layer/net.{i}": float((model.net[i].weight == 0).float().mean()) for i in (1, 3)}
    chosen = {"sparsity/global": 0.5, "sparsity/masked": 0.5, "sparsity/ever_pruned": 0.5, "sparsity/regrown": 0}
    assert metrics == pytest.approx(chosen | (layers if per_layer else {}))


def test_without_pruners_every_weight_is_measured() -> None:
    model: Any = Classifier(mlp())
    model.net[7].weight.data.zero_()
    monitor = SparsityMonitor(per_layer=False)
    metrics = monitor.measure(quiet_trainer(callbacks=monitor), model)
    total = sum(ref.tensor.numel() for ref in weight_layers(model))
    assert metrics == {
        "sparsity/global": pytest.approx(model.net[7].weight.numel() / total),
        "sparsity/masked": 0,
        "sparsity/ever_pruned": 0,
        "sparsity/regrown": 0,
    }


def test_the_weights_of_the_pruners_are_measured() -> None:
    model: Any = Classifier(mlp())
    _, metrics = run(model, SparsityMonitor(), GlobalL1Pruning(0.5, layers=["net.1"]))
    assert metrics.epochs[0]["sparsity/global"] == 0.5
    assert [name for name in metrics.epochs[0] if name.startswith("sparsity/layer")] == ["sparsity/layer/net.1"]


def test_monitoring_changes_nothing() -> None:
    weights = []
    for callbacks in ([], [SparsityMonitor()]):
        torch.manual_seed(0)
        model: Any = Classifier(mlp())
        run(model, *callbacks, GlobalL1Pruning(0.5))
        weights.append([parameter.detach() for parameter in model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def test_counts_continue_when_a_run_is_resumed(tmp_path: Path) -> None:
    class Fades(Classifier):
        """A model that uses the second half of its inputs only in the first epoch."""

        def training_step(self, batch: Any, batch_idx: int) -> Any:
            images = batch[0].clone()
            if self.current_epoch > 0:
                images.flatten(1)[:, 96:] = 0
            return self.loss((images, batch[1]))

    def callbacks() -> list[Callback]:
        return [SparsityMonitor(), GlobalL1Pruning(0.25), PruningRemoval(1)]

    whole, expected = run(Fades(mlp()), *callbacks(), max_epochs=2)
    whole.save_checkpoint(tmp_path / "two.ckpt")
    torch.load(tmp_path / "two.ckpt", weights_only=True)
    _, metrics = run(Fades(mlp()), *callbacks(), ckpt_path=tmp_path / "two.ckpt", max_epochs=3)
    assert metrics.epochs[0]["gradient/untouched"] <= expected.epochs[-1]["gradient/untouched"] < 0.3
    assert metrics.epochs[0]["sparsity/regrown"] > 0


class Flipping(Callback):
    """Exchanges the masked quarter of a layer for another one before epoch 2."""

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        weight = pl_module.net[1].weight
        kept = torch.arange(weight.numel()).view(weight.shape) % 4 != (1 if trainer.current_epoch >= 2 else 0)
        apply_masks(pl_module, {"net.1": kept})


def test_changed_masks_are_counted_since_the_previous_log() -> None:
    model: Any = Classifier(mlp())
    share = model.net[1].weight.numel() / sum(ref.tensor.numel() for ref in weight_layers(model))
    _, metrics = run(model, Flipping(), SparsityMonitor(), max_epochs=4)
    changed = [epoch["mask/changed"] for epoch in metrics.epochs]
    assert changed == pytest.approx([share / 4, 0, share / 2, 0])
    _, metrics = run(Classifier(mlp()), SparsityMonitor(2), GlobalL1Pruning(0.5, start_epoch=1), PruningRemoval(3))
    assert metrics.epochs[1]["mask/changed"] == pytest.approx(0.5, abs=0.001)
    assert metrics.epochs[3]["mask/changed"] == pytest.approx(0.5, abs=0.001)


def test_a_resumed_run_compares_with_the_masks_of_its_last_log(tmp_path: Path) -> None:
    whole, _ = run(Classifier(mlp()), Flipping(), monitor := SparsityMonitor(), max_epochs=2)
    whole.save_checkpoint(tmp_path / "two.ckpt")
    packed = monitor.state_dict()["seen"]["net.1"]
    assert packed["bits"].numel() == -(-packed["shape"][0] * packed["shape"][1] // 8)
    model: Any = Classifier(mlp())
    share = model.net[1].weight.numel() / sum(ref.tensor.numel() for ref in weight_layers(model))
    _, metrics = run(model, Flipping(), SparsityMonitor(), ckpt_path=tmp_path / "two.ckpt", max_epochs=3)
    assert metrics.epochs[0]["mask/changed"] == pytest.approx(share / 2)


def test_masks_are_drawn_as_tiles() -> None:
    written: list[tuple[str, Any, int]] = []

    class Writer:
        def add_image(self, tag: str, image: Any, step: int, dataformats: str) -> None:
            written.append((tag, image, step))

    half = torch.arange(96 * 128).view(96, 128) < 48 * 128
    shapes = {"a": half.shape, "b": torch.Size([8, 3, 3, 3]), "c": torch.Size([5])}
    none = torch.zeros_like(half)
    draw_masks(Writer(), {"a": half}, {"a": none}, shapes, 3)
    draw_masks(Writer(), {"a": half}, {"a": ~half}, shapes, 4)
    assert [(tag, step) for tag, _, step in written] == [("masks/layers", 3), ("masks/layers", 4)]
    (first, second) = (image.astype(int) for _, image, _ in written)
    assert first.shape == second.shape
    dark, orange = (
        [int(((image[..., 2] - image[..., 0]) * sign > least).sum()) for image in (first, second)]
        for sign, least in ((1, 60), (-1, 200))
    )
    assert min(dark) > 1000
    assert orange[0] == 0
    assert orange[1] > 1000


def test_both_of_two_optimizers_are_watched() -> None:
    _, metrics = run(TwoOptimizers(), SparsityMonitor())
    assert metrics.epochs[-1]["gradient/untouched"] < 0.1


@pytest.mark.parametrize("order", [1, -1])
def test_gradients_that_a_freeze_drops_do_not_count(order: int) -> None:
    model: Any = Classifier(mlp())
    callbacks = [SparsityMonitor(), LayerFreezing(layers="net.1", unfreeze_epoch=1)][::order]
    _, metrics = run(model, *callbacks, max_epochs=2)
    total = sum(ref.tensor.numel() for ref in weight_layers(model))
    untouched = [epoch["gradient/untouched"] for epoch in metrics.epochs]
    assert untouched == pytest.approx([model.net[1].weight.numel() / total, 0])
    assert not any(optimizer._optimizer_step_post_hooks for optimizer in model.trainer.optimizers)


def test_early_steps_are_sampled_more_often() -> None:
    sampled = [step for step in range(1000) if _is_sampled(step)]
    assert sampled[:9] == [0, 1, 2, 4, 8, 16, 32, 64, 128]
    assert max(b - a for a, b in pairwise(sampled)) == 64


@pytest.mark.filterwarnings("ignore:The number of training batches")
def test_loggers_receive_metrics_figures_and_histograms(tmp_path: Path) -> None:
    model: Any = Classifier(mlp())
    model.net[1].weight.data.zero_()
    board, csv = TensorBoardLogger(tmp_path, "board", version=0), CSVLogger(tmp_path, "csv", version=0)
    run(model, SparsityMonitor(histograms=True, masks=True), GlobalL1Pruning(0.1), logger=[board, csv], max_epochs=2)
    events = EventAccumulator(
        str(tmp_path / "board/version_0"), size_guidance={"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}
    )
    events.Reload()
    assert {"sparsity/global", "sparsity/layer/net.1", "gradient/untouched"} <= set(events.Tags()["scalars"])
    images = events.Images("sparsity/layers")
    assert [image.step for image in images] == [0, 1]
    assert images[0].width > 400
    assert [image.step for image in events.Images("masks/layers")] == [0, 1]
    assert {"weights/net.1", "weights/net.3", "weights_nonzero/net.3"} <= set(events.Tags()["histograms"])
    assert "sparsity/global" in (tmp_path / "csv/version_0/metrics.csv").read_text()


@pytest.mark.parametrize("value", [0, -1, 1.5, True, "a"])
def test_bad_intervals_are_refused(value: Any) -> None:
    with pytest.raises(InputError, match="`every_n_epochs` to be a positive integer, but got "):
        SparsityMonitor(every_n_epochs=value)
