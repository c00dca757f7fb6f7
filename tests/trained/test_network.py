"""Loading a trained network from any checkpoint or state dict, and saving it again."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Trainer
from torch import nn
from torch.nn.utils import prune

from lit_prune import LitResNet18
from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.functional import weight_layers
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.trained.network import load_network, save_network
from tests.trained.conftest import AMOUNT
from tests.training.small import SmallNet


def test_a_checkpoint_of_fit_has_masks_and_touched_weights(checkpoint):
    network = load_network(str(checkpoint))
    stored = read_checkpoint(checkpoint)["state_dict"]
    assert isinstance(network.model, LitResNet18)
    assert not network.model.training
    assert all(torch.equal(tensor, stored[name]) for name, tensor in network.model.state_dict().items())
    layers = {ref.name: ref.tensor for ref in weight_layers(network.model)}
    assert network.masks.keys() == layers.keys() == network.touched.keys()
    assert all(bool((layers[name][~mask] == 0).all()) for name, mask in network.masks.items())
    pruned = sum(int((~mask).sum()) for mask in network.masks.values())
    assert pruned == round(AMOUNT * sum(tensor.numel() for tensor in layers.values()))
    touched = torch.cat([mask.flatten() for mask in network.touched.values()]).float().mean()
    assert 0.2 < touched < 0.39  # 61.9% of the weights only ever see padding
    assert network.settings["data"]["source"] == "synthetic"


@pytest.mark.parametrize("wrapped", [True, False])
@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
def test_a_state_dict_of_a_resnet_is_recognised(tmp_path, wrapped, stem):
    state = LitResNet18(stem=stem).state_dict()
    torch.save({"state_dict": state, "epoch": 3} if wrapped else state, tmp_path / "bare.pt")
    network = load_network(str(tmp_path / "bare.pt"))
    assert all(torch.equal(tensor, state[name]) for name, tensor in network.require_model().state_dict().items())
    assert (network.masks, network.touched) == ({}, {})


def test_settings_of_a_third_party_optimizer_are_not_needed(tmp_path):
    """Only `fit` builds the optimizer, and refuses to choose it by the checkpoint."""
    model = LitResNet18(channels=dict.fromkeys(FULL_CHANNELS, 8))
    settings = {name: {"class_path": f"lion_pytorch.{name}"} for name in ("optimizer", "lr_scheduler")}
    content = {"state_dict": model.state_dict(), "pytorch-lightning_version": "2.6.0", "hyper_parameters": settings}
    torch.save(content, tmp_path / "lion.ckpt")
    assert isinstance(load_network(str(tmp_path / "lion.ckpt")).model, LitResNet18)
    torch.save(content | {"hyper_parameters": {"output": {"class_path": "lion_pytorch.Lion"}}}, tmp_path / "other.ckpt")
    with pytest.raises(InputError, match=r"`model\.output\.class_path` 'lion_pytorch\.Lion', which is unsafe"):
        load_network(str(tmp_path / "other.ckpt"))


def test_a_custom_checkpoint_has_no_model_until_its_class_is_named(foreign):
    network = load_network(str(foreign))
    assert network.model is None
    assert "first.weight" in network.state_dict
    with pytest.raises(
        InputError, match=r"but got those of another network\. HINT: name the network's class with `--model"
    ):
        network.require_model()
    named = load_network(str(foreign), "tests.training.small.SmallNet")
    assert isinstance(named.model, SmallNet)
    assert torch.equal(named.model.first.weight, network.state_dict["first.weight"])


class Sized(SmallNet):
    def __init__(self, width: int, lr: float = 0.1) -> None:
        super().__init__(lr)
        self.save_hyperparameters()
        self.head = nn.Linear(16, width)


def test_a_custom_class_is_built_with_its_hyperparameters(tmp_path):
    trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    trainer.strategy.connect(Sized(width=7))
    trainer.save_checkpoint(tmp_path / "sized.ckpt")
    network = load_network(str(tmp_path / "sized.ckpt"), f"{__name__}.Sized")
    assert network.require_model().head.out_features == 7  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("nowhere.Net", "nowhere"),
        ("torch.nn.Linear", "torch.nn.Linear"),
        ("tests.training.small.Small", "Small"),
        ("", ""),
    ],
)
def test_an_unusable_class_name_is_refused(foreign, name, found):
    with pytest.raises(InputError, match=rf"^Expected `--model` to name a subclass of Lightning.*, but got .*{found}"):
        load_network(str(foreign), name)


def test_a_class_that_does_not_match_the_weights_is_refused(checkpoint):
    with pytest.raises(InputError, match="Expected the weights of a SmallNet in"):
        load_network(str(checkpoint), "tests.training.small.SmallNet")


def test_a_checkpoint_cannot_choose_a_class(foreign, tmp_path, monkeypatch):
    """Only the class that the user names is imported, not the one in the settings."""
    content = read_checkpoint(foreign)
    content["lit_prune"]["settings"]["model"]["class_path"] = "this_would_leave_a_mark.Net"
    torch.save(content, tmp_path / "x.ckpt")
    (tmp_path / "this_would_leave_a_mark.py").write_text("open('mark', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    assert load_network("x.ckpt").model is None
    assert isinstance(load_network("x.ckpt", "tests.training.small.SmallNet").model, SmallNet)
    content["lit_prune"]["settings"]["model"]["init_args"]["lr"] = {"class_path": "this_would_leave_a_mark.Net"}
    torch.save(content, "y.ckpt")
    with pytest.raises(InputError, match="which is unsafe"):
        load_network("y.ckpt", "tests.training.small.SmallNet")
    assert not Path("mark").exists()


def test_masks_of_torch_and_prefixes_of_compiling_are_removed(tmp_path):
    model: Any = SmallNet()
    prune.l1_unstructured(model.first, "weight", 0.5)
    names = {f"_orig_mod.{name}": tensor for name, tensor in model.state_dict().items()}
    torch.save(names, tmp_path / "pruned.pt")
    network = load_network(str(tmp_path / "pruned.pt"), "tests.training.small.SmallNet")
    assert torch.equal(network.masks["first"], model.first.weight_mask.bool())
    assert torch.equal(network.require_model().get_parameter("first.weight"), model.first.weight)
    assert "first.weight_mask" not in network.state_dict


def test_a_mask_of_the_wrong_shape_is_ignored(checkpoint, tmp_path):
    content = read_checkpoint(checkpoint)
    (key,) = (key for key in content["callbacks"] if key.startswith("GlobalL1Pruning"))
    content["callbacks"][key]["masks"]["head.0"]["shape"] = [10**9, 10**9]
    torch.save(content, tmp_path / "x.ckpt")
    network = load_network(str(tmp_path / "x.ckpt"))
    assert "head.0" not in network.masks
    assert "head.2" in network.masks


@pytest.mark.gate
def test_a_saved_network_can_be_loaded_tested_and_trained(checkpoint, run):
    network = load_network(str(checkpoint))
    model = network.require_model()
    with torch.no_grad():
        model.head[2].bias.fill_(0.25)  # type: ignore[index,union-attr]
    save_network(network, model, "new.ckpt", output="softmax")
    again = load_network("new.ckpt")
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict.items())
    assert again.settings["model"]["output"] == "softmax"
    assert again.settings["data"] == network.settings["data"]
    assert (
        run("test", "--ckpt_path=new.ckpt", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=1").status == 0
    )
    argv = ["--model.init_from=new.ckpt", "--data.source=synthetic", "--trainer.accelerator=cpu"]
    assert run("fit", *argv, "--trainer.fast_dev_run=true", "--trainer.enable_progress_bar=false").status == 0
    assert "`--model.init_from`" in run("fit", "--ckpt_path=new.ckpt").complaint


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_a_saved_network_keeps_the_types_of_its_file(tmp_path, dtype):
    state = {name: value.to(dtype) for name, value in SmallNet().state_dict().items()}
    state["head.weight"][0] = 1e-60 if dtype == torch.float64 else 1e-30
    torch.save(state, "typed.pt")
    network = load_network("typed.pt", "tests.training.small.SmallNet")
    model: Any = network.require_model()
    model.head.weight.data[1] = 0
    save_network(network, model, "again.ckpt")
    again = read_checkpoint("again.ckpt")["state_dict"]
    state["head.weight"][1] = 0
    assert {name: value.dtype for name, value in again.items()} == dict.fromkeys(state, dtype)
    assert all(torch.equal(value, state[name]) for name, value in again.items())


def test_a_saved_network_keeps_what_its_class_stored_but_not_its_training(tmp_path, foreign):
    content = read_checkpoint(foreign)
    extra = {"vocabulary": ["a", "b"], "averaging_state": {"n": 1}, "optimizer_states": [{}]}
    torch.save(content | extra, "extra.ckpt")
    network = load_network("extra.ckpt", "tests.training.small.SmallNet")
    save_network(network, network.require_model(), "again.ckpt")
    again = read_checkpoint("again.ckpt")
    assert again["vocabulary"] == ["a", "b"]
    assert not {"averaging_state", "optimizer_states"} & again.keys()
    assert (again["callbacks"], again["loops"]) == ({}, None)


def test_a_state_dict_is_saved_as_a_checkpoint(tmp_path, run):
    torch.save(LitResNet18(stem="cifar").state_dict(), "bare.pt")
    network = load_network("bare.pt")
    save_network(network, network.require_model(), "whole.ckpt")
    assert read_checkpoint("whole.ckpt")["hyper_parameters"]["stem"] == "cifar"
    again = load_network("whole.ckpt").require_model().state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in network.state_dict.items())
