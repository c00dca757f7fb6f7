"""Trained networks: a pruned ResNet-18 and a custom network, both trained by `fit`."""

from pathlib import Path

import pytest

from lit_prune.main import main
from tests.training.conftest import TINY
from tests.training.conftest import run as run  # the fixture

AMOUNT = 0.3


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of a LitResNet18, trained for an epoch with 30% of its weights pruned and with a SparsityMonitor."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("trained"))
        callbacks = [
            "--trainer.callbacks+=GlobalL1Pruning",
            f"--trainer.callbacks.amount={AMOUNT}",
            "--trainer.callbacks+=SparsityMonitor",
        ]
        assert main(["fit", *TINY, "--trainer.max_epochs=1", "--name=pruned", *callbacks]) == 0
        return Path("lightning_logs/pruned/version_0/checkpoints/last.ckpt").absolute()


@pytest.fixture(scope="session")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoint of `tests.training.small.SmallNet`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("foreign"))
        argv = [*TINY, "--model=tests.training.small.SmallNet", "--trainer.max_epochs=1", "--name=small"]
        assert main(["fit", *argv]) == 0
        return Path("lightning_logs/small/version_0/checkpoints/last.ckpt").absolute()
