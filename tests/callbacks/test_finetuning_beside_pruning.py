"""Callbacks of others that freeze and thaw layers work beside pruning, in either order, and after a resume."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning
import torch
import torch.nn.functional as F
from lightning import pytorch as lightning
from lightning.pytorch.callbacks import BackboneFinetuning, BaseFinetuning
from torch import Tensor, nn

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning
from lit_prune.functional import masking, selection
from tests.callbacks.models import snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
current_mask: Any = masking.current_mask
weight_layers: Any = selection.weight_layers

EPOCHS = 5
TOTAL = 8 * 8 + 8 * 8 + 8 * 3

OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.01),
    "adam": lambda parameters: torch.optim.Adam(parameters, 0.01),
    "adafactor": lambda parameters: torch.optim.Adafactor(parameters, 0.01),
}


def module_of(package: Any, optimizer: str) -> Any:
    """Make a backbone and a head; the optimizer starts with the head alone, as these callbacks ask for."""

    class WithBackbone(package.LightningModule):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.backbone = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 8))
            self.head = nn.Linear(8, 3)

        def training_step(self, batch: Tensor, batch_idx: int) -> Tensor:
            return F.cross_entropy(self.head(self.backbone(batch)), torch.arange(len(batch)) % 3)

        def configure_optimizers(self) -> Any:
            return OPTIMIZERS[optimizer]([value for value in self.parameters() if value.requires_grad])

        def train_dataloader(self) -> Any:
            return torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(1))

    return WithBackbone()


def fit(package: Any, model: Any, callbacks: list[Any], epochs: int = EPOCHS, path: Path | None = None) -> Any:
    trainer = package.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, ckpt_path=path, weights_only=True if path else None)
    return trainer


class Watch(lightning.Callback):
    """Records the weights at the start of each epoch's second batch, and checks that what is pruned is zero."""

    def __init__(self) -> None:
        self.seen: dict[int, dict[str, Tensor]] = {}
        self.zeros: dict[int, int] = {}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        refs = weight_layers(pl_module)
        for ref in refs:
            if (mask := current_mask(ref)) is not None:
                assert not ref.tensor[~mask].view(torch.int32).any()
        if batch_idx == 1:
            self.seen[trainer.current_epoch] = snapshot(pl_module)
            self.zeros[trainer.current_epoch] = sum(int((ref.tensor == 0).sum()) for ref in refs)

    def moved(self, name: str, since: int, until: int) -> bool:
        return not torch.equal(self.seen[since][name], self.seen[until][name])


def backbone(package: Any, epoch: int) -> Any:
    kind = BackboneFinetuning if package is lightning else pytorch_lightning.callbacks.BackboneFinetuning
    return kind(epoch, backbone_initial_lr=0.05, should_align=False)


PACKAGES = pytest.mark.parametrize("package", [lightning, pytorch_lightning], ids=["lightning", "pytorch_lightning"])
quiet = pytest.mark.filterwarnings(
    "ignore:The '.*' does not have many workers", "ignore:The provided params to be frozen already exist"
)


@quiet
@PACKAGES
@pytest.mark.parametrize("optimizer", list(OPTIMIZERS))
@pytest.mark.parametrize(("order", "start"), [(1, 0), (-1, 2), (1, 3)])
def test_backbone_finetuning(package: Any, optimizer: str, order: int, start: int) -> None:
    model, watch = module_of(package, optimizer), Watch()
    trainer = fit(package, model, [*[backbone(package, 2), GlobalL1Pruning(0.5, start_epoch=start)][::order], watch])
    assert [watch.zeros[epoch] for epoch in range(EPOCHS)] == [
        0 if epoch < start else TOTAL // 2 for epoch in range(EPOCHS)
    ]
    # pruning alone changes a frozen backbone, to zeros
    for name in ("backbone.0.weight", "backbone.3.weight"):
        first, before = watch.seen[0][name], watch.seen[1][name]
        assert torch.equal(before[before != 0], first[before != 0])
        assert watch.moved(name, 2, 3)
    assert watch.moved("head.weight", 0, 1)
    assert [len(group["params"]) for group in trainer.optimizers[0].param_groups] == [4, 4]


@quiet
@PACKAGES
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.gate
def test_a_run_with_a_thawed_backbone_resumes(tmp_path: Path, package: Any, order: int) -> None:
    def callbacks(start: int) -> list[Any]:
        return [backbone(package, 2), GlobalL1Pruning(0.5, start_epoch=start)][::order]

    for start in (0, 1, 2):
        for stop in (1, 2, 3):
            half = fit(package, model := module_of(package, "sgd"), callbacks(start), stop)
            half.save_checkpoint(tmp_path / "half.ckpt")
            resumed, watch = module_of(package, "sgd"), Watch()
            fit(package, resumed, [*callbacks(start), watch], path=tmp_path / "half.ckpt")
            assert watch.zeros == {epoch: 0 if epoch < start else TOTAL // 2 for epoch in range(stop, EPOCHS)}
            if stop > start:  # the masks of the checkpoint, not new ones
                for mine, theirs in zip(weight_layers(resumed), weight_layers(model), strict=True):
                    assert torch.equal(current_mask(mine), current_mask(theirs))


class Phases(BaseFinetuning):
    """Thaws one layer an epoch, from the last to the first, each with a learning rate of its own."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.backbone)

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch in (1, 2):
            layer = pl_module.backbone[3 if epoch == 1 else 0]
            self.unfreeze_and_add_param_group(layer, optimizer, lr=0.05 / epoch)


@quiet
@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "pruning",
    [
        lambda: GlobalL1Pruning(0.6, end_epoch=3),
        lambda: LocalL1Pruning(0.5, start_epoch=2),
        lambda: GlobalRandomPruning(0.5, start_epoch=1, end_epoch=4),
    ],
)
@pytest.mark.gate
def test_layers_that_thaw_one_by_one_while_they_are_pruned(tmp_path: Path, pruning: Any, order: int) -> None:
    def callbacks(watch: Watch) -> list[Any]:
        return [*[Phases(), pruning()][::order], watch]

    model, watch = module_of(lightning, "adam"), Watch()
    fit(lightning, model, callbacks(watch))
    assert watch.zeros[EPOCHS - 1] == pytest.approx(TOTAL * pruning().amount, abs=2)
    assert watch.moved("backbone.3.bias", 1, 2)
    assert not watch.moved("backbone.0.bias", 0, 1)
    assert watch.moved("backbone.0.bias", 2, 3)
    for stop in (1, 2, 3):
        half = fit(lightning, module_of(lightning, "adam"), callbacks(Watch()), stop)
        half.save_checkpoint(tmp_path / "half.ckpt")
        resumed, after = module_of(lightning, "adam"), Watch()
        fit(lightning, resumed, callbacks(after), path=tmp_path / "half.ckpt")
        assert after.zeros == {epoch: watch.zeros[epoch] for epoch in range(stop, EPOCHS)}


@quiet
@pytest.mark.filterwarnings("ignore:No monitor metric specified", "ignore:Final phase max_transition_epoch")
@pytest.mark.parametrize("start", [0, 1, 2])
def test_finetuning_scheduler(tmp_path: Path, start: int) -> None:
    fts = pytest.importorskip("finetuning_scheduler", reason="the package finetuning-scheduler is not installed")
    schedule = tmp_path / "phases.yaml"
    schedule.write_text(
        "0:\n  params: ['head.bias', 'head.weight']\n  max_transition_epoch: 1\n"
        "1:\n  params: ['backbone.3.bias', 'backbone.3.weight']\n  max_transition_epoch: 3\n"
        "2:\n  params: ['backbone.0.bias', 'backbone.0.weight']\n  max_transition_epoch: 5\n"
    )
    scheduler = fts.FinetuningScheduler(ft_schedule=str(schedule), epoch_transitions_only=True, restore_best=False)
    model, watch = module_of(lightning, "adam"), Watch()
    fit(lightning, model, [scheduler, GlobalL1Pruning(0.5, start_epoch=start), watch])
    assert watch.zeros == {epoch: 0 if epoch < start else TOTAL // 2 for epoch in range(EPOCHS)}
    assert watch.moved("backbone.3.weight", 1, 2)
