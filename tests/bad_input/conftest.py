"""Files that are not what they seem to be, and what a wrong command must leave as it was."""

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

from lit_prune.main import main
from tests.bad_input.table import Case
from tests.faults.conftest import Disk
from tests.faults.conftest import disk as disk  # the fixture
from tests.study.folders import make_study
from tests.training.conftest import TINY
from tests.training.conftest import run as run  # the fixture

PLAN: dict[str, Any] = {
    "settings": {"data": {"source": "synthetic", "limit_train": 64, "val_size": 20, "batch_size": 16}},
    "initial_weights": "random",
    "experiments": [{"name": "a"}],
}
# what is wrong with each is its name
PLANS: dict[str, Any] = {
    "list": [1],
    "no-experiments": {"experiments": []},
    "experiments-number": {"experiments": 3},
    "experiment-text": {"experiments": ["a"]},
    "experiment-unnamed": {"experiments": [{"parent": "a"}]},
    "experiment-up": {"experiments": [{"name": "../a"}]},
    "experiment-absolute": {"experiments": [{"name": "/a"}]},
    "experiment-twice": {"experiments": [{"name": "a"}, {"name": "a"}]},
    "experiment-taken": {"experiments": [{"name": "report"}]},
    "parent-unknown": {"experiments": [{"name": "a", "parent": "b"}]},
    "parents-cycle": {"experiments": [{"name": "a", "parent": "b"}, {"name": "b", "parent": "a"}]},
    "checkpoint": {"experiments": [{"name": "a", "checkpoint": "first"}]},
    "train": {"experiments": [{"name": "a", "train": "no"}]},
    "key": PLAN | {"sedes": [0]},
    "name": PLAN | {"name": "../x"},
    "seeds-twice": PLAN | {"seeds": [1, 1]},
    "seeds-nan": PLAN | {"seeds": [float("nan")]},
    "threads": PLAN | {"threads": 0},
    "weights": PLAN | {"initial_weights": 3},
    "metrics": PLAN | {"metrics": {"loss": "x"}},
    "base": {"base": "nowhere.yaml"},
    "base-itself": {"base": "base-itself.yaml"},
    "only": PLAN | {"only": ["z*"]},
    "model-list": PLAN | {"settings": {"model": [1]}},
    "decided": PLAN | {"settings": {"seed_everything": 3}},
    "logger": PLAN | {"settings": {"trainer": {"logger": False}}},
    "epochs": PLAN | {"settings": {"trainer": {"max_epochs": "many"}}},
    "callbacks": PLAN | {"settings": {"trainer": {"callbacks": 3}}},
    "claim-unsaid": PLAN | {"claims": [{"contrasts": []}]},
    "claim-measure": PLAN
    | {"claims": [{"said": "so", "contrasts": [{"of": "a", "measure": "speed", "between": [0, 1]}]}]},
    "claim-of": PLAN
    | {"claims": [{"said": "so", "contrasts": [{"of": {"a": 1}, "measure": "final_test_acc", "between": [0, 1]}]}]},
    "claim-limits": PLAN
    | {"claims": [{"said": "so", "contrasts": [{"of": "a", "measure": "final_test_acc", "between": [1, 0]}]}]},
    "good": PLAN,
}
CONFIGS = {
    "empty": b"",
    "list": b"- 1\n",
    "scalar": b"hello\n",
    "broken": b"data: {source: a\n",
    "bytes": bytes(range(128, 256)),
    "nul": b"data: \0\n",
    "tag": b"data: !!python/object/apply:os.system ['true']\n",
    "deep": b"data: " + b"[" * 5000 + b"\n",
    "itself": b"data: &a {source: *a}\n",
    "bomb": b"a: &a [x,x,x,x,x,x,x,x,x]\n"
    + b"".join(b"%c: &%c [%s]\n" % (n, n, b",".join([b"*%c" % (n - 1)] * 9)) for n in b"bcdefghi"),
    "key": b"data: {sorce: synthetic}\n",
    "number-key": b"1: 2\n",
    "unicode-key": "dätä: 3\n".encode(),
    "of-fit": b"fit: {data: {source: synthetic}}\n",
    "config": b"config: nowhere.yaml\n",
    "nul-path": b'data: {data_dir: "a\\0b"}\n',
    "long-path": b"data: {predict_path: " + b"x" * 5000 + b"}\n",
    "long-value": b"model: {output: " + b"x" * 10_000 + b"}\n",
    "callbacks": b"trainer: {callbacks: [{class_path: GlobalL1Pruning, init_args: 3}]}\n",
    "group-number": b"data: 3\n",
    "group-null": b"trainer: null\n",
}


@pytest.fixture(scope="session")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with all of them, which no test may change."""
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        _checkpoints()
    _of_text(folder)
    Image.new("RGB", (40, 40)).save(folder / "image.png")
    Image.new("RGB", (40, 40)).save(folder / "image.gif")
    (folder / "empty").mkdir()
    (folder / "pictures").mkdir()
    Image.new("RGB", (40, 40)).save(folder / "pictures" / "a.png")
    (folder / "pictures" / "b.png").write_text("no image")
    _studies(folder)
    return folder


def _checkpoints() -> None:
    trainer = Trainer(max_steps=1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
                      enable_model_summary=False, accelerator="cpu")  # fmt: skip
    trainer.strategy.connect(BoringModel())
    trainer.save_checkpoint("foreign.ckpt")
    foreign = torch.load("foreign.ckpt", weights_only=True)
    for name, version in (("old", "0.0.1"), ("future", "99.0.0"), ("wordy", "two"), ("numbered", 2)):
        torch.save(foreign | {"pytorch-lightning_version": version}, f"{name}.ckpt")
    torch.save(foreign | {"lit_prune": 3}, "odd.ckpt")
    for name, number in (("future-format", 99), ("wordy-format", "new"), ("negative-format", -1)):
        torch.save(foreign | {"lit_prune": {"format": number, "settings": {}}}, f"{name}.ckpt")
    torch.save(foreign | {"lit_prune": {"settings": {"model": 3}}}, "odd-model.ckpt")
    torch.save(foreign | {"hyper_parameters": 3}, "odd-hyper.ckpt")
    torch.save(foreign | {"state_dict": {}}, "weightless.ckpt")
    whole = Path("foreign.ckpt").read_bytes()
    Path("truncated.ckpt").write_bytes(whole[: len(whole) // 2])
    torch.save({"layer.weight": torch.zeros(2)}, "weights.pt")
    torch.save(torch.zeros(2), "tensor.pt")
    torch.save({}, "nothing.pt")


def _of_text(folder: Path) -> None:
    (folder / "text.ckpt").write_text("hello")
    (folder / "empty.ckpt").touch()
    (folder / "noimage.png").write_text("no image")
    for name, content in CONFIGS.items():
        (folder / f"{name}.yaml").write_bytes(content)
    (folder / "plans").mkdir()
    for name, plan in PLANS.items():
        (folder / "plans" / f"{name}.yaml").write_text(yaml.safe_dump(plan), encoding="utf-8")
    for name in ("empty", "broken", "bytes", "deep", "itself", "bomb"):
        (folder / "plans" / f"{name}.yaml").write_bytes(CONFIGS[name])


def _studies(folder: Path) -> None:
    for name in ("study", "planless", "broken-plan", "plan-folder", "table-folder", "figures-file", "board-file"):
        make_study(
            folder / name, missing=[(e, seed) for e in ("task1/softmax", "task4/finetuned-10") for seed in (0, 1)]
        )
    for name in ("planless", "plan-folder"):
        (folder / name / "plan.yaml").unlink()
    (folder / "broken-plan" / "plan.yaml").write_text("a: [")
    (folder / "plan-folder" / "plan.yaml").mkdir()
    (folder / "table-folder" / "results.csv").mkdir()
    (folder / "figures-file" / "figures").touch()
    (folder / "board-file" / "report").touch()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run with pruning wrote."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        pruning = ["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.2"]
        assert main(["fit", *TINY, "--trainer.max_epochs=1", "--name=base", *pruning]) == 0
        return Path("lightning_logs/base/version_0/checkpoints/last.ckpt").absolute()


def listing(folder: Path) -> dict[str, str]:
    """All that is in a folder: of files size and SHA-256, of links where they lead."""
    return {str(path.relative_to(folder)): _said(path) for path in folder.rglob("*")}


def _said(path: Path) -> str:
    if path.is_symlink():
        return f"a link to {path.readlink()}"
    if path.is_dir():
        return "a folder"
    content = path.read_bytes()
    return f"{len(content)} bytes, {hashlib.sha256(content).hexdigest()}"


@pytest.fixture(scope="session")
def known_files(files: Path) -> dict[str, str]:
    """What `files` held before any test."""
    return listing(files)


@pytest.fixture
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that may not be read."""
    path = tmp_path_factory.mktemp("locked") / "image.png"
    Image.new("RGB", (40, 40)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    return path


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that nobody can write to, with a study in it."""
    if os.geteuid() == 0:  # whom permissions do not stop
        disk: Disk = request.getfixturevalue("disk")
        make_study(disk.folder / "study")
        disk.freeze()
        yield disk.folder
        return
    folder = tmp_path_factory.mktemp("read-only")
    make_study(folder / "study")
    for place in (folder, folder / "study"):
        place.chmod(0o500)
    yield folder
    for place in (folder, folder / "study"):
        place.chmod(0o700)


@pytest.fixture
def places(request: pytest.FixtureRequest, files: Path) -> Callable[[Case], dict[str, str]]:
    """What the names in a case stand for; only what it names is made."""

    def find(case: Case) -> dict[str, str]:
        text = " ".join(case.argv)
        found = {"{files}": str(files)}
        if "{locked}" in text:
            found["{locked}"] = str(request.getfixturevalue("locked"))
        if "{readonly" in text:
            folder = request.getfixturevalue("read_only")
            found |= {"{readonly}": str(folder), "{readonly-study}": str(folder / "study")}
        return found

    return find
