"""A folder of invalid files, in which invalid commands run. No command may change it."""

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.demos.boring_classes import BoringModel
from PIL import Image

from lit_prune.models.resnet18 import LitResNet18
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from tests.study.folders import make_study
from tests.training.conftest import TINY, Run
from tests.training.conftest import run as run  # the fixture

PLAN: dict[str, Any] = {
    "settings": {"data": {"source": "synthetic", "limit_train": 64, "val_size": 20, "batch_size": 16}},
    "initial_weights": "random",
    "experiments": [{"name": "a"}],
}
QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
# options that keep a training short if a command is accepted by mistake
SHORT = {"fit": [*TINY, "--trainer.max_epochs=1"], "validate": QUIET, "test": QUIET, "predict": QUIET}

Refused = Callable[..., str]


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the files that commands name."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _write_checkpoints()
        _write_others()
        _write_studies()
    return folder


def _write_checkpoints() -> None:
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, accelerator="cpu")  # fmt: skip
    trainer.strategy.connect(BoringModel())
    trainer.save_checkpoint("foreign.ckpt")
    foreign = torch.load("foreign.ckpt", weights_only=True)
    changes: dict[str, dict[str, Any]] = {
        "old": {"pytorch-lightning_version": "0.0.1"},
        "wordy": {"pytorch-lightning_version": "two"},
        "odd": {"lit_prune": 3},
        "odd-hyper": {"hyper_parameters": 3},
        "future-format": {"lit_prune": {"format": 99, "settings": {}}},
        "negative-format": {"lit_prune": {"format": -1, "settings": {}}},
        "weightless": {"state_dict": {}},
    }
    for name, change in changes.items():
        torch.save(foreign | change, f"{name}.ckpt")
    whole = Path("foreign.ckpt").read_bytes()
    Path("truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"layer.weight": torch.zeros(2)}, "weights.pt")
    torch.save(torch.zeros(2), "tensor.pt")
    torch.save(LitResNet18(channels=dict.fromkeys(FULL_CHANNELS, 8)).state_dict(), "network.pt")


def _write_others() -> None:
    Path("text.ckpt").write_text("hello")
    Path("key.yaml").write_text("data: {sorce: synthetic}")
    Path("good.yaml").write_text(yaml.safe_dump(PLAN))
    for folder in ("empty", "pictures"):
        Path(folder).mkdir()
    Image.new("RGB", (40, 40)).save("image.png")
    for name in ("pictures/a.gif", "pictures/b.png"):
        Path(name).write_text("no image")


def _write_studies() -> None:
    for name in ("study", "planless", "broken-plan", "table-folder", "figures-file"):
        make_study(Path(name), missing=[(e, s) for e in ("task1/softmax", "task4/finetuned-10") for s in (0, 1)])
    Path("planless/plan.yaml").unlink()
    Path("broken-plan/plan.yaml").write_text("a: [")
    Path("table-folder/results.csv").mkdir()
    Path("figures-file/figures").touch()


def listing(folder: Path) -> dict[str, str]:
    """Return the contents of a folder by path: the SHA-256 of each file, the target of each link."""
    return {str(path.relative_to(folder)): _describe(path) for path in folder.rglob("*")}


def _describe(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    return "a folder" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def refused(run: Run) -> Refused:
    """Run a command that must print a single line on stderr, fail and change no file; return that line."""

    def call(*argv: str, status: int = 2) -> str:
        before = listing(Path())
        answer = run(*argv[:1], *SHORT.get("".join(argv[:1]), ()), *argv[1:])
        assert "Traceback" not in answer.err
        lines = answer.err.splitlines()
        assert len(lines) == 1, answer.err
        assert lines[0].startswith("lit-prune: error: ")
        assert answer.status == status
        assert listing(Path()) == before
        return lines[0]

    return call


@pytest.fixture
def read_only(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder that cannot be written to, with a study in it."""
    root = os.geteuid() == 0  # root can write in spite of permissions
    disk = request.getfixturevalue("disk") if root else None
    folder: Path = disk.folder if disk else tmp_path_factory.mktemp("read-only")
    make_study(folder / "study")
    if disk:
        disk.freeze()
    else:
        for path in (folder, folder / "study"):
            path.chmod(0o500)
    yield folder
    if not root:
        for path in (folder, folder / "study"):
            path.chmod(0o700)
