"""Processes that see different data prune the same weights."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from lightning.pytorch.strategies import DDPStrategy
from torch import nn

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, LocalL1Pruning, PruningRemoval, SparsityMonitor
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import weight_layers
from tests.callbacks.criteria import LampPruning, TaylorPruning
from tests.callbacks.models import Batches, Classifier, conv_net, quiet_trainer
from tests.processes import run_ddp

EPOCHS = 4


class OwnData(Classifier):
    """A model whose images differ between processes."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


class Spare(OwnData):
    """A model with a layer that receives no gradients."""

    def __init__(self) -> None:
        super().__init__(conv_net())
        self.spare = nn.Linear(16, 4)


class Save(Callback):
    """Keeps weights, masks and metrics of each epoch and process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        state = {
            "parameters": {name: value.detach().clone() for name, value in pl_module.named_parameters()},
            "masks": {
                ref.parameter_name: mask for ref in weight_layers(pl_module) if (mask := current_mask(ref)) is not None
            },
            "sparsity": float(trainer.callback_metrics["sparsity/global"]),
        }
        torch.save(state, self.folder / f"epoch{trainer.current_epoch}-rank{trainer.global_rank}.pt")


# convolutions have 162 and 432 weights, the head 32; each case lists how many are zero at the end of each epoch
CASES: dict[str, tuple[Callable[[], list[Callback]], list[int | None]]] = {
    # two callbacks, one of them gradual; all masks are removed at epoch 3
    "global": (
        lambda: [
            PruningRemoval(3),
            GlobalL1Pruning(0.6, start_epoch=0, end_epoch=2, exclude=["*.fc"]),
            GlobalRandomPruning(0.5, start_epoch=1, layers=["*.fc"]),
        ],
        [0, round(0.525 * 594) + 16, round(0.6 * 594) + 16, None],
    ),
    # the model is rewound at epochs 2 and 3
    "rewinding": (
        lambda: [
            LocalL1Pruning(0.5, start_epoch=1, end_epoch=3, schedule="linear", exclude=["*.fc"], rewind_to=1),
            LampPruning(0.25, start_epoch=1, layers=["*.fc"]),
        ],
        [0, 8, round(0.25 * 162) + 108 + 8, 81 + 216 + 8],
    ),
    "taylor": (lambda: [TaylorPruning(0.5, start_epoch=1, end_epoch=2)], [0, 0, 313, 313]),
    "unused": (lambda: [LocalL1Pruning(0.5, start_epoch=1)], [0, 345, 345, 345]),
}


# other strategies than "ddp"; with a static graph, a gradient that is missing once would fail
STRATEGIES: dict[str, dict[str, Any]] = {"global": {"static_graph": True}, "unused": {"find_unused_parameters": True}}


def train(rank: int, folder: Path, case: str) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    trainer = quiet_trainer(
        strategy=DDPStrategy(**STRATEGIES.get(case, {})),
        devices=2,
        max_epochs=EPOCHS,
        callbacks=[SparsityMonitor(), Save(folder), *CASES[case][0]()],
    )
    trainer.fit(Spare() if case == "unused" else OwnData(conv_net()), Batches())


@pytest.mark.parametrize("case", CASES)
@pytest.mark.gate
def test_processes_have_identical_weights_and_masks(tmp_path: Path, case: str) -> None:
    run_ddp(train, tmp_path, case)
    for epoch, expected in zip(range(EPOCHS), CASES[case][1], strict=True):
        ours, theirs = (torch.load(tmp_path / f"epoch{epoch}-rank{rank}.pt") for rank in range(2))
        for kind in ("parameters", "masks"):
            assert ours[kind].keys() == theirs[kind].keys()
            for name, tensor in ours[kind].items():
                assert torch.equal(tensor, theirs[kind][name])
        assert ours["sparsity"] == theirs["sparsity"]
        if expected is None:
            assert not ours["masks"]
        else:
            total = 626 + (64 if case == "unused" else 0)
            assert ours["sparsity"] == pytest.approx(expected / total)
