"""All callbacks together on third-party modules and Trainers."""

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
from lightning import pytorch as lightning
from lightning.pytorch.demos import boring_classes
from pytorch_lightning.demos import boring_classes as old_boring_classes
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils.data import DataLoader

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LayerFreezing, PruningRemoval, SparsityMonitor
from lit_prune.errors import InputError
from tests.callbacks.criteria import PRUNERS

PACKAGES: Any = [(lightning, boring_classes), (pytorch_lightning, old_boring_classes)]


class Watch(lightning.Callback):
    """Records weights and zeros at the start of every batch, by name."""

    def __init__(self) -> None:
        self.epochs: list[int] = []
        self.weights: list[dict[str, Tensor]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.epochs.append(trainer.current_epoch)
        self.weights.append({key: value.clone() for key, value in pl_module.state_dict().items()})

    def of(self, epoch: int) -> list[dict[str, Tensor]]:
        return [weights for seen, weights in zip(self.epochs, self.weights, strict=True) if seen == epoch]


def transformer(base: Any) -> Any:
    """Make a small third-party encoder of tokens."""

    class Tokens(base):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(10, 8)
            self.encoder = nn.TransformerEncoderLayer(8, nhead=2, dim_feedforward=16, dropout=0.1, batch_first=True)
            self.head = nn.Linear(8, 10)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            logits = self.head(self.encoder(self.embed(batch)))
            return nn.functional.cross_entropy(logits.flatten(0, 1), batch.roll(-1, dims=1).flatten())

        def configure_optimizers(self) -> Any:
            return torch.optim.AdamW(self.parameters(), lr=0.01)

        def train_dataloader(self) -> Any:
            tokens: Any = torch.randint(10, (6, 5))
            return DataLoader(tokens, batch_size=2)

    return Tokens()


def fit(package: Any, model: Any, *callbacks: Any, **kwargs: Any) -> Any:
    trainer = package.Trainer(
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=list(callbacks),
        **kwargs,
    )
    trainer.fit(model)
    return trainer


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("pruner", PRUNERS.values(), ids=PRUNERS)
@pytest.mark.parametrize(("package", "demos"), PACKAGES)
def test_the_demo_module(package: Any, demos: Any, pruner: Any, order: int) -> None:
    model, watch = demos.BoringModel(), Watch()
    freezing = LayerFreezing(layers="layer", unfreeze_epoch=1)
    callbacks = [freezing, pruner(0.5, start_epoch=2), PruningRemoval(3), SparsityMonitor(), watch][::order]
    trainer = fit(package, model, *callbacks, limit_train_batches=3, limit_val_batches=1)
    frozen, free = watch.of(0)[-1], watch.of(1)[-1]
    assert all(torch.equal(frozen[name], watch.of(0)[0][name]) for name in frozen)
    assert not any(torch.equal(frozen[name], free[name]) for name in frozen)
    assert [int((seen["layer.weight"] == 0).sum()) for seen in watch.of(2)[1:]] == [32] * 2
    assert int((watch.of(3)[-1]["layer.weight"] == 0).sum()) < 32
    assert not prune.is_pruned(model)
    assert trainer.callback_metrics["sparsity/global"] == (model.layer.weight == 0).float().mean()
    assert trainer.callback_metrics["gradient/untouched"] == 0


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers", "ignore:The number of training batches")
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("package", "demos"), PACKAGES)
def test_a_small_transformer(package: Any, demos: Any, order: int) -> None:
    model, watch = transformer(package.LightningModule), Watch()
    callbacks = [
        LayerFreezing(layers="embed"),
        GlobalL1Pruning(0.6, end_epoch=2, exclude=["head"]),
        GlobalRandomPruning(0.25, layers=["head"]),
        PruningRemoval("end"),
        SparsityMonitor(),
        watch,
    ][::order]
    trainer = fit(package, model, *callbacks)
    chosen = ["in_proj_weight", "out_proj.weight"]
    chosen = [f"encoder.self_attn.{name}" for name in chosen] + ["encoder.linear1.weight", "encoder.linear2.weight"]
    for epoch, amount in enumerate([0.0, 0.525, 0.6, 0.6]):
        for seen in watch.of(epoch)[1:]:
            assert sum(int((seen[name] == 0).sum()) for name in chosen) == round(amount * (192 + 64 + 128 + 128))
            assert int((seen["head.weight"] == 0).sum()) == 20
    first, last = watch.weights[0], watch.weights[-1]
    assert {name for name in first if torch.equal(first[name], last[name])} == {"embed.weight"}
    assert not prune.is_pruned(model)
    assert float(trainer.callback_metrics["sparsity/masked"]) == pytest.approx((307 + 20) / 592)


@pytest.mark.filterwarnings("ignore:The '.*' does not have many workers")
@pytest.mark.parametrize(("package", "demos"), PACKAGES)
def test_loggers_strategies_and_callbacks_of_both_packages_are_known(package: Any, demos: Any, tmp_path: Path) -> None:
    loggers, strategies = (import_module(f"{package.__name__}.{name}") for name in ("loggers", "strategies"))
    board = loggers.TensorBoardLogger(tmp_path, "board", version=0)
    quiet = {"accelerator": "cpu", "enable_checkpointing": False, "enable_progress_bar": False, "max_epochs": 1}
    quiet |= {"enable_model_summary": False, "limit_train_batches": 1, "limit_val_batches": 0, "log_every_n_steps": 1}
    trainer = package.Trainer(logger=board, callbacks=SparsityMonitor(), **quiet)
    trainer.fit(demos.BoringModel())
    events = EventAccumulator(str(tmp_path / "board/version_0"), size_guidance={"images": 0})
    events.Reload()
    assert [image.step for image in events.Images("sparsity/layers")] == [0]

    for name in ("FSDPStrategy", "DeepSpeedStrategy"):
        trainer.strategy.__class__ = getattr(strategies, name)
        with pytest.raises(InputError, match=f"a strategy that SparsityMonitor supports, but got {name}"):
            SparsityMonitor().setup(trainer, demos.BoringModel(), "fit")

    model = demos.BoringModel()
    model.norm = nn.BatchNorm1d(2)
    averaging = package.callbacks.StochasticWeightAveraging(0.01)
    trainer = package.Trainer(logger=False, callbacks=[LayerFreezing(layers="norm"), averaging], **quiet)
    with pytest.raises(InputError, match="no StochasticWeightAveraging together with frozen batch norms"):
        trainer.fit(model)
