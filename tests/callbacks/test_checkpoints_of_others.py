"""Checkpoints that others write: from before the pruning, with a part of the weights, and of losses with penalties."""

import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor, nn

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning
from lit_prune.functional import masking, selection
from tests.callbacks.models import OPTIMIZERS, Batches, Classifier, conv_net, mlp, quiet_trainer, snapshot
from tests.callbacks.test_pruning_resume import Saver, assert_same

# typed as Any, because mypy does not know which modules and tensors a model contains
current_mask: Any = masking.current_mask
weight_layers: Any = selection.weight_layers


def zeros(model: nn.Module) -> int:
    return sum(int((ref.tensor == 0).sum()) for ref in weight_layers(model))


def count(model: nn.Module) -> int:
    return sum(ref.tensor.numel() for ref in weight_layers(model))


def fit(model: Any, callbacks: list[Callback], epochs: int, path: Path | None = None, **kwargs: Any) -> Any:
    trainer = quiet_trainer(callbacks, max_epochs=epochs, **kwargs)
    trainer.fit(model, Batches(), Batches(2, seed=1), ckpt_path=path, weights_only=True if path else None)
    return trainer


# a checkpoint from before the pruning


class GetsWorse(Classifier):
    """The score of each epoch is worse than the one before."""

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.log("val_loss", float(self.current_epoch))

    def predict_step(self, batch: Any, batch_idx: int) -> Tensor:
        return self(batch[0])  # type: ignore[no-any-return]


def evaluate(trainer: Any, stage: str, model: Any, **kwargs: Any) -> list[str]:
    """Validate, test or predict; return what was said about lost zeros."""
    options = {"verbose": False} if stage != "predict" else {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        getattr(trainer, stage)(model, Batches(2, seed=1), weights_only=True, **options, **kwargs)
    return [str(warning.message) for warning in caught if "pruned" in str(warning.message)]


LATE: dict[str, tuple[Callable[[], Any], float]] = {
    "global": (lambda: GlobalL1Pruning(0.6, start_epoch=1), 0.0),
    "local": (lambda: LocalL1Pruning(0.5, start_epoch=2), 0.0),
    "gradual": (lambda: GlobalRandomPruning(0.8, end_epoch=2, schedule="linear"), 0.0),
    "rewound": (lambda: GlobalL1Pruning(0.5, start_epoch=2, rewind_to=1), 0.0),
}


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
@pytest.mark.parametrize("stage", ["validate", "test", "predict"])
@pytest.mark.parametrize("kind", LATE)
def test_the_best_checkpoint_from_before_the_pruning_warns(tmp_path: Path, kind: str, stage: str) -> None:
    pruning = LATE[kind][0]()
    model, keep = GetsWorse(mlp()), ModelCheckpoint(tmp_path, monitor="val_loss")
    trainer = fit(model, [pruning, keep], 3)
    pruned = zeros(model) / count(model)
    assert evaluate(trainer, stage, model) == []  # the model as it is
    (said,) = evaluate(trainer, stage, model, ckpt_path="best")
    assert re.match(rf"{type(pruning).__name__} has pruned {pruned:.2%} of the weights", said)
    assert "only 0.00% of the loaded weights are zero" in said
    assert zeros(model) == 0


@pytest.mark.filterwarnings("ignore:Checkpoint directory")
def test_a_checkpoint_of_a_pruned_epoch_does_not_warn_and_one_from_the_middle_names_its_sparsity(
    tmp_path: Path,
) -> None:
    model = GetsWorse(mlp())
    trainer = fit(model, [GlobalL1Pruning(0.8, end_epoch=2, schedule="linear"), Saver(tmp_path)], 3)
    assert evaluate(trainer, "test", model, ckpt_path=tmp_path / "epoch-2.ckpt") == []
    (said,) = evaluate(trainer, "test", model, ckpt_path=tmp_path / "epoch-1.ckpt")
    assert f"only {round(0.4 * count(model)) / count(model):.2%} of the loaded weights are zero" in said


def test_weights_that_are_loaded_by_hand_warn_too() -> None:
    model = GetsWorse(mlp())
    dense = snapshot(model)
    trainer = fit(model, [GlobalL1Pruning(0.6)], 1)
    sparse = snapshot(model)
    model.load_state_dict(dense)
    assert len(evaluate(trainer, "test", model)) == 1
    assert len(evaluate(trainer, "predict", model)) == 1
    model.load_state_dict(sparse)
    assert evaluate(trainer, "test", model) == []


# a checkpoint with a part of the weights


class Partial(Classifier):
    """Saves the trained part of its weights, as modules with a frozen backbone, an adapter or a text encoder do.

    Args:
        kept: Start of the names that are saved.
        loaded: How missing weights are allowed: "strict_loading", or weights that are added "on_load".
    """

    def __init__(self, kept: str, loaded: str, optimizer: str) -> None:
        torch.manual_seed(0)
        super().__init__(mlp(), optimizer)
        self.kept, self.loaded = kept, loaded
        if loaded == "strict_loading":
            self.strict_loading = False
        for name, value in self.named_parameters():
            value.requires_grad_(name.startswith(kept))

    def on_save_checkpoint(self, checkpoint: Any) -> None:
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {name: value for name, value in state.items() if name.startswith(self.kept)}

    def on_load_checkpoint(self, checkpoint: Any) -> None:
        if self.loaded == "on_load":
            checkpoint["state_dict"] = self.state_dict() | checkpoint["state_dict"]

    def configure_optimizers(self) -> Any:
        return OPTIMIZERS[self.optimizer]([value for value in self.parameters() if value.requires_grad])


@pytest.mark.parametrize(
    ("kept", "loaded", "optimizer", "pruning"),
    [
        ("net.7", "strict_loading", "sgd", lambda: [GlobalL1Pruning(0.5, start_epoch=1)]),
        ("net.1", "strict_loading", "adam", lambda: [GlobalL1Pruning(0.7, end_epoch=3)]),
        ("net.5", "on_load", "adamw", lambda: [GlobalRandomPruning(0.5)]),
        (
            "net.7",
            "on_load",
            "sgd",
            lambda: [LocalL1Pruning(0.5, layers="net.1"), GlobalL1Pruning(0.3, exclude="net.1")],
        ),
    ],
)
def test_frozen_weights_that_a_checkpoint_leaves_out_keep_their_masks(
    tmp_path: Path, kept: str, loaded: str, optimizer: str, pruning: Any
) -> None:
    model = Partial(kept, loaded, optimizer)
    expected = fit(model, [*pruning(), Saver(tmp_path)], 5)
    for file in ("step-6", "step-12", "epoch-0", "epoch-2"):
        saved = torch.load(tmp_path / f"{file}.ckpt", weights_only=True)
        assert all(name.startswith(kept) for name in saved["state_dict"])
        resumed = Partial(kept, loaded, optimizer)
        trainer = fit(resumed, pruning(), 5, tmp_path / f"{file}.ckpt")
        assert_same(snapshot(resumed), snapshot(model))
        assert_same(trainer.optimizers[0].state_dict(), expected.optimizers[0].state_dict())
        for mine, theirs in zip(weight_layers(resumed), weight_layers(model), strict=True):
            assert torch.equal(current_mask(mine), current_mask(theirs))
    assert zeros(model) == sum(
        round(callback.amount * sum(ref.tensor.numel() for ref in callback.choose(model))) for callback in pruning()
    )


# penalties on parameters


def anchored(model: Any) -> Tensor:
    """L2-SP: the distance to the first weights."""
    return sum(((value - first) ** 2).sum() for value, first in zip(model.parameters(), model.first, strict=True))  # type: ignore[no-any-return]


def elastic(model: Any) -> Tensor:
    """EWC: the same, weighed by a Fisher information."""
    return sum(  # type: ignore[no-any-return]
        (first.abs() * (value - first) ** 2).sum() for value, first in zip(model.parameters(), model.first, strict=True)
    )


def proximal(model: Any) -> Tensor:
    """FedProx: half the squared distance to global weights, over the names of the state dict."""
    own = dict(model.named_parameters())
    return sum(0.5 * (own[name] - value).norm() ** 2 for name, value in zip(own, model.first, strict=True))  # type: ignore[no-any-return]


def orthogonal(model: Any) -> Tensor:
    """Rows of each weight that are orthogonal: the gradient of an entry depends on all of its row."""
    weights = (value.flatten(1) for value in model.parameters() if value.dim() > 1)
    return sum((weight @ weight.T - torch.eye(len(weight))).square().sum() for weight in weights)  # type: ignore[no-any-return]


def hoyer(model: Any) -> Tensor:
    """A measure of sparsity, whose gradient at zero is not zero."""
    return sum(value.abs().sqrt().sum() for value in model.parameters() if value.dim() > 1)  # type: ignore[no-any-return]


class Penalised(Classifier):
    def __init__(self, penalty: Callable[[Any], Tensor], optimizer: str, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        super().__init__(conv_net().to(dtype), optimizer)
        self.net: Any
        self.net.drop.p = 0.0
        self.penalty = penalty
        self.first = [value.detach().clone() for value in self.parameters()]
        self.losses: list[float] = []

    def loss(self, batch: Any) -> Tensor:
        images, labels = batch
        return F.cross_entropy(self(images.to(next(self.parameters()).dtype)), labels) + 0.1 * self.penalty(self)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(batch)
        self.losses.append(loss.item())
        return loss


@pytest.mark.parametrize("first", ["now", "later"])
@pytest.mark.parametrize(
    ("penalty", "optimizer", "kwargs", "dtype"),
    [
        (anchored, "sgd", {"gradient_clip_val": 0.5}, torch.float32),
        (anchored, "adam", {}, torch.float64),
        (elastic, "adamw", {"gradient_clip_val": 0.1, "gradient_clip_algorithm": "value"}, torch.float32),
        (proximal, "sgd", {"accumulate_grad_batches": 2}, torch.float32),
        (orthogonal, "adam", {"gradient_clip_val": 0.5}, torch.float32),
        (hoyer, "adamw", {}, torch.float32),
    ],
)
@pytest.mark.gate
def test_penalties_move_nothing_behind_masks_and_runs_resume(
    tmp_path: Path, penalty: Any, optimizer: str, kwargs: Any, dtype: torch.dtype, first: str
) -> None:
    def pruning() -> GlobalL1Pruning:
        return GlobalL1Pruning(0.5, start_epoch=0 if first == "now" else 2)

    model = Penalised(penalty, optimizer, dtype)
    whole = fit(model, [pruning(), Saver(tmp_path)], 4, **kwargs)
    assert zeros(model) == round(0.5 * count(model))
    assert all(value.isfinite().all() for value in model.parameters())
    # not in the middle of an accumulation, whose gradients Lightning does not save
    middle = [] if "accumulate_grad_batches" in kwargs else [("step-6", 6)]
    for file, done in (*middle, ("epoch-0", 4), ("epoch-2", 12)):
        resumed = Penalised(penalty, optimizer, dtype)
        trainer = fit(resumed, [pruning()], 4, tmp_path / f"{file}.ckpt", **kwargs)
        assert_same(snapshot(resumed), snapshot(model))
        assert_same(trainer.optimizers[0].state_dict(), whole.optimizers[0].state_dict())
        assert resumed.losses == model.losses[done:]
