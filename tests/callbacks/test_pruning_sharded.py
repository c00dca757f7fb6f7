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
from lit_prune.functional.packing import unpack_masks
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.selection import weight_layers
from lit_prune.functional.sharding import local, reshard
from lit_prune.functional.sparsity import sparsity_report
from tests.callbacks.criteria import TaylorPruning
from tests.callbacks.models import Batches, Classifier, mlp, quiet_trainer
from tests.processes import run_ddp

EPOCHS, REMOVAL = 4, 3
WEIGHTS = 192 * 16 + 16 * 12 + 12 * 8 + 8 * 4
PRUNED = round(0.8 * WEIGHTS)


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
        images = batch[0] + self.global_rank
        images[:, 0] = 0  # a third of the first layer's weights never receives a gradient
        return self.loss((images, batch[1]))


def gathered(tensors: Iterable[Any]) -> list[Tensor]:
    return [tensor.full_tensor().detach() for tensor in tensors]


def masks_of(pl_module: Any) -> dict[str, Any]:
    return {ref.name: mask for ref in weight_layers(pl_module) if (mask := current_mask(ref)) is not None}


def leave_whole(pl_module: Any) -> None:
    """Evaluate a model, as other callbacks may do; some of its weights are whole then."""
    with torch.no_grad():
        pl_module(torch.zeros(2, 3, 8, 8))
    assert not hasattr(pl_module.net[7].weight, "placements")


class Watch(Callback):
    """Compares masks with those that one process computes, and checks that pruned weights are zero after each batch."""

    def __init__(self, pruner: GlobalL1Pruning) -> None:
        self.pruner = pruner
        self.before: tuple[list[Tensor], dict[str, Tensor]] = ([], {})
        self.final: list[Tensor] = []
        self.compared = 0
        self.metrics: dict[int, dict[str, float]] = {}  # by the number of completed epochs

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.on_train_end(trainer, pl_module)
        leave_whole(pl_module)

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        reached = self.pruner.state_dict()["reached"]
        if batch_idx == 0 and reached > 0 and trainer.current_epoch < REMOVAL:
            plain = Classifier(mlp())
            weights, masks = self.before
            for ref, values in zip(weight_layers(plain), weights, strict=True):
                ref.tensor.data.copy_(values)
            apply_masks(plain, masks)
            expected = compute_masks(weight_layers(plain), reached)
            for ours, theirs in zip(gathered(masks_of(pl_module).values()), expected.values(), strict=True):
                assert torch.equal(ours, theirs)
            self.compared += 1

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        masks = masks_of(pl_module)
        if trainer.current_epoch > self.pruner.times.start:
            assert len(masks) == (4 if trainer.current_epoch < REMOVAL else 0)
        for ref in weight_layers(pl_module) if masks else ():
            assert not local(ref.tensor)[~local(masks[ref.name])].any()
        weights = gathered(ref.tensor for ref in weight_layers(pl_module))
        self.before = (weights, dict(zip(masks, gathered(masks.values()), strict=True)))

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        leave_whole(pl_module)
        if masks := self.pruner.state_dict()["masks"]:
            assert masks["net.7"]["shape"] == [4, 8]
        leave_whole(pl_module)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.metrics[trainer.current_epoch] = {name: float(value) for name, value in trainer.callback_metrics.items()}


def fit(
    folder: Path,
    distributed: bool,
    pruner: Any = None,
    steps: int = -1,
    checkpoint: Path | None = None,
    amount: float = 0,
) -> Watch:
    watch = Watch(pruner or GlobalL1Pruning(0.8, end_epoch=2))
    trainer = quiet_trainer(
        strategy=ModelParallelStrategy(2, 1, save_distributed_checkpoint=distributed),
        devices=2,
        max_epochs=EPOCHS,
        max_steps=steps,
        callbacks=[
            watch,
            PruningRemoval(REMOVAL),
            SparsityMonitor(),
            watch.pruner,
            ModelCheckpoint(folder, "{step}", every_n_train_steps=6, save_top_k=-1),
        ],
    )
    model = Sharded()
    GlobalL1Pruning(amount).prune(model)  # before the weights are split
    trainer.fit(model, Batches(), Batches(seed=1), ckpt_path=checkpoint)
    reshard(model)
    watch.final = gathered(model.parameters())
    return watch


def train(rank: int, folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    straight = fit(folder / "many", distributed=True)
    assert straight.compared == 2
    torch.manual_seed(0)
    fit(folder / "one", distributed=False, steps=6)
    for name in ("many", "one"):
        # from the middle of an epoch, in which part of the pruning is done
        checkpoint = folder / name / "step=6.ckpt"
        assert checkpoint.is_dir() == (name == "many")
        resumed = fit(folder / "resumed", checkpoint.is_dir(), checkpoint=checkpoint)
        assert resumed.compared == 1
        assert sorted(resumed.metrics) == [2, 3, 4]
        assert resumed.metrics.items() <= straight.metrics.items()
        for ours, theirs in zip(resumed.final, straight.final, strict=True):
            assert torch.equal(ours, theirs)
    torch.save(straight.metrics, folder / f"metrics-{rank}.pt")
    with pytest.raises(InputError, match="whole tensors in `missed`, which TaylorPruning saves, but got split ones"):
        fit(folder / "taylor", True, TaylorPruning(0.5, start_epoch=REMOVAL), amount=0.3)


@pytest.mark.gate
@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create the checkpoint")
def test_masks_are_those_of_one_process_and_runs_resume(tmp_path: Path) -> None:
    run_ddp(train, tmp_path)
    metrics = torch.load(tmp_path / "metrics-0.pt")
    assert metrics == torch.load(tmp_path / "metrics-1.pt")
    pruned, removed = metrics[REMOVAL], metrics[EPOCHS]
    assert pruned["sparsity/global"] == pruned["sparsity/masked"] == pruned["sparsity/ever_pruned"]
    assert pruned["sparsity/global"] == pytest.approx(PRUNED / WEIGHTS)
    assert pruned["gradient/untouched"] == pytest.approx(192 / 3 * 16 / WEIGHTS)
    assert removed["sparsity/masked"] == 0
    assert removed["sparsity/ever_pruned"] == pruned["sparsity/ever_pruned"]
    assert removed["sparsity/regrown"] == pytest.approx(1 - removed["gradient/untouched_pruned"] * WEIGHTS / PRUNED)

    # one process can continue, with whole weights, from a file that holds them whole
    file = tmp_path / "one" / "step=6.ckpt"
    callbacks = torch.load(file, weights_only=True)["callbacks"]
    (state,) = (value for key, value in callbacks.items() if key.startswith("GlobalL1Pruning"))
    model = Classifier(mlp(), optimizer="adam")
    monitor = SparsityMonitor()
    trainer = quiet_trainer([GlobalL1Pruning(0.8, end_epoch=2), monitor], max_epochs=REMOVAL)
    trainer.fit(model, Batches(), Batches(seed=1), ckpt_path=file)
    assert sparsity_report(weight_layers(model)).masked == PRUNED
    for name, mask in unpack_masks(state["masks"]).items():
        (now,) = (current_mask(ref) for ref in weight_layers(model) if ref.name == name)
        assert now is not None
        assert not (now & ~mask).any()


class ModelParallel:
    """A trainer's part that the callbacks look at before training."""

    strategy = type("ModelParallelStrategy", (), {})()
    callbacks: tuple[Callback, ...] = ()


def test_what_needs_whole_weights_is_refused() -> None:
    trainer: Any = ModelParallel()
    for callback, message in (
        (GlobalL1Pruning(0.5, start_epoch=1, rewind_to=0), "no `rewind_to` under ModelParallelStrategy, but got 0"),
        (SparsityMonitor(histograms=True), "no `histograms` under ModelParallelStrategy, but got True"),
        (LayerFreezing(0.5), "a strategy that LayerFreezing supports, but got ModelParallelStrategy"),
    ):
        with pytest.raises(InputError, match=message):
            callback.setup(trainer, Classifier(mlp()), "fit")
