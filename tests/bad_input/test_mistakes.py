"""Invalid input that needs a read-only folder, a damaged cache or an earlier run."""

import os
from pathlib import Path
from socket import gaierror
from urllib.error import URLError

import pytest
from PIL import Image

from lit_prune.main import main
from tests.bad_input.conftest import QUIET
from tests.docs import ROOT
from tests.faults.conftest import disk as disk  # the fixture
from tests.training.conftest import TINY

OFFLINE = "http://127.0.0.1:9/nothing"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The last checkpoint of a run with pruning."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("run"))
        pruning = ["--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.2"]
        assert main(["fit", *TINY, "--trainer.max_epochs=1", "--name=base", *pruning]) == 0
        return Path("lightning_logs/base/version_0/checkpoints/last.ckpt").absolute()


@pytest.mark.parametrize(
    ("command", "status"),
    [
        ("fit --trainer.default_root_dir={}", 2),
        ("fit --trainer.default_root_dir={}/below", 2),
        ("study good.yaml --out={}/new", 1),
        ("report {}/study", 1),
        ("report study --output={}/x.md", 1),
        ("inspect foreign.ckpt --plot={}/a.png", 1),
        ("prune foreign.ckpt --amount=0.3 --output={}/out.ckpt", 1),
        ("sensitivity foreign.ckpt --output={}/map.png", 1),
        ("shrink foreign.ckpt --ratio=0.5 --output={}/small.ckpt", 1),
        ("export foreign.ckpt --format=safetensors --output={}/net.out", 1),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_named(refused, files, read_only, monkeypatch, command, status):
    monkeypatch.chdir(files)
    line = refused(*command.format(read_only).split(" "), status=status)
    assert str(read_only) in line
    assert "read-only file system" in line.lower() or "permission denied" in line.lower()


def test_an_image_that_cannot_be_read_is_named(refused, files, tmp_path):
    path = tmp_path / "image.png"
    Image.new("RGB", (40, 40)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root can read every file")
    assert "Permission denied" in refused(
        "predict", f"--model.init_from={files / 'network.pt'}", f"--data.predict_path={path}"
    )


@pytest.mark.parametrize(("callback", "near"), [("EarlyStopping", "val/los"), ("ModelCheckpoint", "nothing")])
def test_a_metric_that_is_not_logged_is_named(run, callback, near):
    """The error is found after the first epoch, so the run's folder exists."""
    argv = [f"--trainer.callbacks+={callback}", f"--trainer.callbacks.monitor={near}", "--trainer.max_epochs=1"]
    answer = run("fit", *TINY, *argv)
    assert answer.status == 2
    for phrase in ("`monitor`", f"`{near}`", "val/loss"):
        assert phrase in answer.complaint


def test_missing_data_without_a_network_is_one_sentence(run, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", OFFLINE)
    answer = run("fit", *QUIET, "--data.data_dir=nowhere")
    assert answer.status == 2
    assert not any(path.is_file() for path in Path().rglob("*"))
    for phrase in ("nowhere/", "--data.data_dir", "--data.source synthetic"):
        assert phrase in answer.complaint


def test_missing_weights_without_a_network_are_one_sentence(run, monkeypatch):
    """Also in a class of the user's own, whose errors jsonargparse wraps."""

    def fail(*args: object, **settings: object) -> None:
        raise URLError(gaierror(-2, "Name or service not known"))

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", fail)
    monkeypatch.syspath_prepend(ROOT / "examples")
    answer = run("fit", f"--config={ROOT / 'examples' / 'finetune_from_imagenet.yaml'}", *QUIET)
    assert answer.status == 2
    assert answer.complaint.startswith("Cannot download https://download.pytorch.org/models/resnet18")
    assert "`weights`" in answer.complaint


def test_a_corrupted_array_cache_is_never_used(run, monkeypatch):
    monkeypatch.setattr("torchvision.datasets.CIFAR10.url", OFFLINE)
    cache = Path("data/cifar10-arrays")
    cache.mkdir(parents=True)
    for name in ("train_images", "train_labels"):
        (cache / f"{name}.npy").write_bytes(b"damaged")
    answer = run("fit", *QUIET)
    assert answer.status == 2
    for phrase in ("data/cifar10-arrays/train_images.npy", "SHA-256 47af8b02"):
        assert phrase in answer.complaint
    assert (cache / "train_images.npy").read_bytes() == b"damaged"


@pytest.mark.parametrize(
    ("command", "option", "phrases"),
    [
        ("fit", "--model.optimizer.lr=0.9", ("0.001", "0.9", "`--model.init_from`")),
        ("fit", "--model.optimizer=SGD", ("'torch.optim.Adam'", "SGD", "`--model.init_from`")),
        ("fit", "--model.stem=cifar", ("'imagenet'", "cifar", "`--model.init_from`")),
        ("fit", "--data.val_size=30", ("20", "30", "`--model.init_from`")),
        ("fit", "--seed_everything=3", ("0", "3", "`--model.init_from`")),
        ("validate", "--model.output=softmax", ("'logits'", "softmax")),
        ("test", "--model.output=softmax", ("'logits'", "softmax")),
        ("predict", "--model.output=softmax", ("'logits'", "softmax")),
    ],
)
def test_an_option_that_contradicts_the_checkpoint_is_refused(run, checkpoint, command, option, phrases):
    answer = run(command, *QUIET, f"--ckpt_path={checkpoint}", option)
    assert answer.status == 2
    for phrase in (f"{option[2:].split('=')[0]}`", f"`{checkpoint}`", *phrases):
        assert phrase in answer.complaint
    assert list(Path().iterdir()) == []


def test_a_pruned_run_does_not_resume_without_its_pruning(run, checkpoint):
    answer = run("fit", *QUIET, f"--ckpt_path={checkpoint}")
    assert answer.status == 2
    for phrase in (f"`{checkpoint}`", "GlobalL1Pruning", "`--trainer.callbacks+=GlobalL1Pruning`", "`config.yaml`"):
        assert phrase in answer.complaint
    assert list(Path().iterdir()) == []
