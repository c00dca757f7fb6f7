"""Two processes that prune, remove and prune again; a script of `test_pruning_ddp.py`."""

import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from lit_prune.callbacks import GlobalL1Pruning, GlobalRandomPruning, PruningRemoval, SparsityMonitor
from tests.callbacks.models import Batches, Classifier, conv_net, quiet_trainer


class OwnData(Classifier):
    """Each process sees other images."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.loss((batch[0] + self.global_rank, batch[1]))


class Save(Callback):
    """Keeps weights, masks and metrics of each epoch and process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        state = {
            "parameters": {name: value.detach().clone() for name, value in pl_module.named_parameters()},
            "masks": {name: value.clone() for name, value in pl_module.named_buffers() if name.endswith("weight_mask")},
            "sparsity": float(trainer.callback_metrics["sparsity/global"]),
        }
        torch.save(state, self.folder / f"epoch{trainer.current_epoch}-rank{trainer.global_rank}.pt")


def main(folder: Path, ckpt_path: Path | None) -> None:
    """Train three epochs, or the rest of them."""
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    trainer = quiet_trainer(
        strategy="ddp_spawn",
        devices=2,
        max_epochs=4,
        callbacks=[
            SparsityMonitor(),
            Save(folder),
            PruningRemoval(3),
            GlobalL1Pruning(0.6, start_epoch=0, end_epoch=2, exclude=["*.fc"]),
            GlobalRandomPruning(0.5, start_epoch=1, layers=["*.fc"]),
        ],
    )
    trainer.fit(OwnData(conv_net()), Batches(), ckpt_path=ckpt_path, weights_only=True)
    trainer.save_checkpoint(folder / "last.ckpt")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
