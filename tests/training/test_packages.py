"""Commands on models and data modules of `pytorch_lightning`, and of both packages at once."""

import pickle
from abc import ABC
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning.pytorch
import pytest
import pytorch_lightning
import torch
import yaml
from crash_test import differences
from lightning.pytorch.utilities.model_helpers import is_overridden
from pytorch_lightning.utilities.model_helpers import is_overridden as is_overridden_in_other

from lit_prune import CIFAR10DataModule, LitResNet18
from lit_prune.training.cli import TrainingCLI
from lit_prune.training.packages import adapt_data, find_package, package_of
from tests.training import other
from tests.training.conftest import NARROW, TINY
from tests.training.small import SmallNet

LAST = Path("checkpoints/last.ckpt")
MODEL = ["--model=tests.training.other.OtherNet", "--model.optimizer=Adam", "--model.optimizer.lr=0.01"]
DATA = "--data=tests.training.other.OtherData"
QUICK = [word for word in TINY if word.startswith("--trainer")]
HOOKS = ["prepare_data", "setup", "teardown", "train_dataloader", "on_after_batch_transfer", "transfer_batch_to_device"]


@pytest.mark.parametrize(
    ("class_path", "package"),
    [
        ("tests.training.other.OtherNet", "pytorch_lightning"),
        ("tests.training.other.OtherData", "pytorch_lightning"),
        ("tests.training.other.make_other", "pytorch_lightning"),
        ("pytorch_lightning.demos.boring_classes.BoringModel", "pytorch_lightning"),
        ("tests.training.small.SmallNet", "lightning.pytorch"),
        ("torch.nn.Linear", "lightning.pytorch"),
        ("tests.training.other.Nothing", "lightning.pytorch"),
        ("nowhere.Nothing", "lightning.pytorch"),
        ("Nothing", "lightning.pytorch"),
        (None, "lightning.pytorch"),
    ],
)
def test_a_class_path_tells_the_package(class_path, package):
    assert find_package(class_path) == package


def test_a_class_tells_the_package():
    class LightningModule(other.OtherNet):
        """It has the name of its base."""

    assert package_of(LightningModule) == package_of(pytorch_lightning.Trainer) == "pytorch_lightning"
    assert package_of(LitResNet18) == package_of(CIFAR10DataModule) == "lightning.pytorch"


class Abstract(pytorch_lightning.LightningDataModule, ABC):
    def setup(self, stage: str) -> None:
        super().setup(stage)
        self.stage = stage


@pytest.mark.parametrize(
    ("make", "package", "check"),
    [
        (other.OtherData, "lightning.pytorch", is_overridden),
        (Abstract, "lightning.pytorch", is_overridden),
        (CIFAR10DataModule, "pytorch_lightning", is_overridden_in_other),
    ],
)
def test_a_data_module_of_one_package_is_adapted_to_the_other(make, package, check):
    data = make()
    own = make.__mro__[: [kind.__name__ for kind in make.__mro__].index("LightningDataModule")]
    names = {hook for hook in HOOKS if any(hook in vars(kind) for kind in own)}
    assert 0 < len(names) < len(HOOKS)
    assert adapt_data(data, package) is data
    assert isinstance(data, make)
    target = import_module(package).LightningDataModule
    assert isinstance(data, target)
    assert type(data).__qualname__ == make.__qualname__
    assert {hook for hook in HOOKS if check(hook, data)} == names
    assert {hook for hook in HOOKS if getattr(type(data), hook) is not getattr(target, hook)} == names


def test_an_adapted_data_module_still_works_and_can_be_pickled():
    data: Any = adapt_data(Abstract(), "lightning.pytorch")
    data.setup("fit")
    data.allow_zero_length_dataloader_with_multiple_devices = True
    copy: Any = pickle.loads(pickle.dumps(data))  # noqa: S301 - its own
    assert copy.stage == "fit"
    assert copy.allow_zero_length_dataloader_with_multiple_devices
    assert issubclass(type(copy), Abstract)
    assert issubclass(type(copy), lightning.pytorch.LightningDataModule)


@pytest.mark.parametrize("make", [CIFAR10DataModule, lightning.pytorch.LightningDataModule])
def test_a_data_module_of_the_same_package_is_left_alone(make):
    data = make()
    assert type(adapt_data(data, "lightning.pytorch")) is make


def add(callback: str, arguments: dict[str, Any]) -> list[str]:
    """Return the options that add a callback."""
    options = [f"--trainer.callbacks.{name}={value}" for name, value in arguments.items()]
    return [f"--trainer.callbacks+={callback}", *options]


@pytest.mark.gate
def test_a_model_of_the_other_package_trains_and_resumes_to_the_same_bits(run):
    callbacks: dict[str, dict[str, Any]] = {
        "EarlyStopping": {"monitor": "val/loss", "patience": 9},
        "LayerFreezing": {"layers": "first", "unfreeze_epoch": 2},
        "GlobalL1Pruning": {"amount": 0.5, "end_epoch": 1},
        "SparsityMonitor": {},
    }
    argv = ["fit", *TINY, *MODEL, "--trainer.max_epochs=3", *(word for it in callbacks.items() for word in add(*it))]
    whole, cut = (Path(f"lightning_logs/{name}/version_0") for name in ("whole", "cut"))
    answer = run(*argv, "--name=whole")
    assert answer.status == 0, answer.err
    assert "Trained 3 of 3 epochs" in answer.out
    assert "sparsity/global 0.5" in answer.out

    interrupting = {"hook": "on_train_batch_end", "step": 6, "marker": "sent"}
    answer = run(*argv, "--name=cut", *add("tests.training.interrupting.Interrupting", interrupting))
    assert answer.status == 128 + 15
    assert answer.complaint.startswith("Stopped by SIGTERM in epoch 1; everything is saved. Resume with")
    assert run("fit", f"--resume={cut}").status == 0
    assert list(differences(cut, whole)) == []

    config = yaml.safe_load((whole / "config.yaml").read_text(encoding="utf-8"))
    paths = [callback["class_path"] for callback in config["trainer"]["callbacks"]]
    assert paths[:2] == ["pytorch_lightning.callbacks.EarlyStopping", "lit_prune.LayerFreezing"]
    stored = torch.load(whole / LAST, weights_only=True)["hyper_parameters"]
    assert stored["_instantiator"] == "pytorch_lightning.cli.instantiate_module"
    assert stored["optimizer"]["class_path"] == "torch.optim.Adam"
    model = other.OtherNet.load_from_checkpoint(whole / LAST, weights_only=True)
    assert model.optimizer(model.parameters()).defaults["lr"] == 0.01


@pytest.fixture
def trained(run) -> str:
    """Checkpoint of a model of the other package."""
    answer = run("fit", *QUICK, *MODEL, DATA, "--data.batch_size=2", "--trainer.max_epochs=1", "--name=x")
    assert answer.status == 0, answer.err
    return str(Path("lightning_logs/x/version_0") / LAST)


def test_a_model_of_the_other_package_is_scored_and_predicts(run, trained):
    for command in ("validate", "test"):
        answer = run(command, *QUICK, *MODEL, DATA, f"--ckpt_path={trained}")
        assert answer.status == 0, answer.err
        assert "val/acc" in answer.out
    answer = run("predict", *QUICK, *MODEL, DATA, f"--ckpt_path={trained}")
    assert answer.status == 0, answer.err
    table = Path("lightning_logs/predict/version_0/predictions.csv").read_text(encoding="utf-8").splitlines()
    assert [line.split(",")[0] for line in table] == ["image", *other.OtherData.predict_names]
    assert run("fit", *QUICK, *MODEL, DATA, f"--ckpt_path={trained}", "--data.batch_size=3").complaint.startswith(
        "Expected `data.batch_size` to be 2 as in"
    )
    named = run("fit", *QUICK, *MODEL, *add("lightning.pytorch.callbacks.EarlyStopping", {"monitor": "val/loss"}))
    assert "HINT: did you mean `pytorch_lightning.callbacks.EarlyStopping`, of the same package" in named.complaint


@pytest.mark.parametrize(
    ("argv", "package"),
    [
        ([*MODEL, DATA], "pytorch_lightning"),
        (["--model=tests.training.small.SmallNet", DATA], "lightning.pytorch"),
        ([NARROW, DATA], "lightning.pytorch"),
    ],
)
def test_models_and_data_of_different_packages_go_together(tmp_path, monkeypatch, argv, package):
    monkeypatch.chdir(tmp_path)
    cli = TrainingCLI(["fit", *QUICK, *argv, "--trainer.max_epochs=1", "--data.batch_size=2"])
    assert package_of(type(cli.trainer)) == package_of(type(cli.model)) == package
    assert cli.datamodule.transferred == 8 + 8 + 4  # training, validation, and two batches of the sanity check
    assert all(isinstance(logger, import_module(f"{package}.loggers").Logger) for logger in cli.trainer.loggers)
    content = torch.load(next(Path("lightning_logs").rglob("last.ckpt")), weights_only=True)
    assert content["datamodule_hyper_parameters"]["batch_size"] == 2
    assert content["datamodule_hyper_parameters"]["_instantiator"] == "pytorch_lightning.cli.instantiate_module"


def test_trained_commands_take_a_model_of_the_other_package(run, trained):
    model = "--model=tests.training.other.OtherNet"
    answer = run("prune", trained, model, "--amount=0.5", "--output=p.ckpt")
    assert answer.status == 0, answer.err
    before, after = (torch.load(path, weights_only=True) for path in (trained, "p.ckpt"))
    zeros = sum(int((after["state_dict"][f"{name}.weight"] == 0).sum()) for name in ("first", "second", "head"))
    assert zeros == round(0.5 * (216 + 1152 + 160))
    assert after["hyper_parameters"] == before["hyper_parameters"]
    assert run("test", *QUICK, *MODEL, DATA, "--ckpt_path=p.ckpt").status == 0
    assert '"sparsity": 0.5' in run("inspect", "p.ckpt", model, "--format=json").out
    answer = run("export", "p.ckpt", model, "--format=torchexport", "--output=p.pt2")
    assert answer.status == 0, answer.err


def test_weights_without_hyper_parameters_are_saved_with_those_of_the_model(run):
    torch.save(other.OtherNet().state_dict(), "o.pt")
    assert run("prune", "o.pt", "--model=tests.training.other.OtherNet", "--amount=0.5", "--output=p.ckpt").status == 0
    assert SmallNet().state_dict().keys() == torch.load("p.ckpt", weights_only=True)["state_dict"].keys()
