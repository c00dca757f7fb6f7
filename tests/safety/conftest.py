"""Fixtures: the command line, and a genuine checkpoint to change."""

from pathlib import Path

import pytest

from lit_prune.main import main
from tests.data.conftest import archive, fake_cifar10
from tests.training.conftest import NARROW, TINY, run

__all__ = ["archive", "fake_cifar10", "genuine", "run"]


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a checkpoint with the command line."""
    folder = tmp_path_factory.mktemp("genuine")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        argv = [
            *TINY,
            NARROW,
            "--trainer.max_epochs=1",
            "--trainer.limit_train_batches=1",
            "--trainer.limit_val_batches=1",
        ]
        assert main(["fit", *argv, "--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"]) == 0
    return next(folder.rglob("last.ckpt"))
