"""The pruning callbacks under FSDP2: two processes, each of which holds a part of every weight."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.strategies import ModelParallelStrategy
from torch import Tensor
from torch.distributed.fsdp import fully_shard

from lit_prune.callbacks import GlobalL1Pruning, LayerFreezing, PruningRemoval, SparsityMonitor
from lit_prune.errors import InputError
from lit_prune.functional.masking import apply_masks, current_mask
from lit_prune.functional.pruning import global_l1_masks
from lit_prune.functional.selection import weight_layers
from lit_prune.functional.sharding import local
from lit_prune.functional.sparsity import sparsity_report
from tests.callbacks.models import Batches, Classifier, mlp, quiet_trainer
from tests.processes import run_ddp

EPOCHS = 4
WEIGHTS = 192 * 16 + 16 * 12 + 12 * 8 + 8 * 4


class Sharded(Classifier):
    """A model that is split between processes, which see different images."""

    def __init__(self) -> None:
        super().__init__(mlp(), optimizer="adam")

    def configure_model(self) -> None:
        layers: Any = self.net
        mesh = self.device_mesh["data_parallel"]  # type: ignore[index]
        for module in (layers[1], layers[3], layers):
            # the last two layers are in the group of the root, which stays whole after a validation
            fully_shard(module, mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


def gathered(tensors: Iterable[Any]) -> list[Tensor]:
    return [tensor.full_tensor().detach() for tensor in tensors]


class Watch(Callback):
    """Compares masks with those that one process computes, and checks that pruned weights are zero after each batch.

    It has to come before the pruning callback.
    """

    def __init__(self, pruner: GlobalL1Pruning) -> None:
        self.pruner = pruner
        self.weights: list[Tensor] = []
        self.masks: dict[str, Tensor] = {}
        self.metrics: list[dict[str, float]] = []
        self.compared = 0

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        refs = weight_layers(pl_module)
        self.weights = gathered(ref.tensor for ref in refs)
        self.masks = {ref.name: mask.full_tensor() for ref in refs if (mask := current_mask(ref)) is not None}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        reached = self.pruner.state_dict()["reached"]
        if batch_idx == 0 and 0 < trainer.current_epoch < 3:
            plain = Classifier(mlp())
            refs = weight_layers(plain)
            for ref, values in zip(refs, self.weights, strict=True):
                ref.tensor.data.copy_(values)
            apply_masks(plain, self.masks)
            for name, expected in global_l1_masks(refs, reached).items():
                (mask,) = (current_mask(ref) for ref in weight_layers(pl_module) if ref.name == name)
                assert torch.equal(gathered([mask])[0], expected)
            self.compared += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        for ref in weight_layers(pl_module):
            if (mask := current_mask(ref)) is not None:
                assert not local(ref.tensor)[~local(mask)].any()

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        assert not hasattr(pl_module.net[7].weight, "placements")  # whole, as many models leave it


def fit(folder: Path, distributed: bool, checkpoint: Path | None = None) -> Watch:
    pruner = GlobalL1Pruning(0.8, end_epoch=2)
    watch = Watch(pruner)
    trainer = quiet_trainer(
        strategy=ModelParallelStrategy(2, 1, save_distributed_checkpoint=distributed),
        devices=2,
        max_epochs=EPOCHS,
        callbacks=[
            watch,
            PruningRemoval(3),
            SparsityMonitor(),
            pruner,
            ModelCheckpoint(folder, "{step}", every_n_train_steps=3, save_top_k=-1),
        ],
    )
    model = Sharded()
    trainer.fit(model, Batches(), Batches(seed=1), ckpt_path=checkpoint)
    watch.metrics = [{name: float(value) for name, value in trainer.callback_metrics.items()}]
    weight_layers(model)
    watch.weights = gathered(model.parameters())
    return watch


def train(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    for distributed in (True, False):
        torch.manual_seed(0)
        place = folder / f"distributed-{distributed}"
        straight = fit(place, distributed)
        assert straight.compared == 2
        # in the middle of an epoch, with half of the pruning done
        resumed = fit(folder / "resumed", distributed, place / "step=6.ckpt")
        if rank == 0: print(straight.metrics, resumed.metrics, [float((a-b).abs().max()) for a,b in zip(straight.weights,resumed.weights)], flush=True)
    torch.save(straight.metrics, folder / f"metrics-{rank}.pt")


def test_masks_are_those_of_one_process_and_runs_resume(tmp_path: Path) -> None:
    run_ddp(train, tmp_path)
