"""Networks with fewer channels, by argument and from weights."""

import math
import re
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from lit_prune.errors import InputError
from lit_prune.models.cropped_conv import CroppedConv2d
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.models.resnet18_channels import FULL_CHANNELS, channels_of
from tests.training.conftest import TINY
from tests.training.conftest import run as run  # the fixture

# each of the thirteen another number, so that none can stand in for another
NARROW = {name: 5 + number for number, name in enumerate(FULL_CHANNELS)}


@pytest.fixture(scope="module")
def narrow():
    return LitResNet18(channels=NARROW)


def test_the_names_are_the_independent_groups():
    state = LitResNet18().state_dict()
    assert len(FULL_CHANNELS) == 13
    assert {name: len(state[f"{name}.weight"]) for name in FULL_CHANNELS} == FULL_CHANNELS
    assert channels_of(state) is None


def test_all_layers_fit_together(narrow):
    state = narrow.state_dict()
    assert {name: len(state[f"{name}.weight"]) for name in FULL_CHANNELS} == NARROW
    assert channels_of(state) == NARROW
    assert channels_of(narrow.backbone.state_dict()) == {n: c for n, c in NARROW.items() if n != "head.0"}
    assert state["backbone.layer1.1.conv2.weight"].shape[:2] == (
        NARROW["backbone.conv1"],
        NARROW["backbone.layer1.1.conv1"],
    )
    assert state["backbone.layer3.0.downsample.0.weight"].shape[:2] == (
        NARROW["backbone.layer3.0.conv2"],
        NARROW["backbone.layer2.0.conv2"],
    )
    assert state["head.0.weight"].shape == (NARROW["head.0"], NARROW["backbone.layer4.0.conv2"])
    assert narrow(torch.randn(2, 3, 32, 32)).shape == (2, 10)
    usual = LitResNet18()
    assert [(n, type(m)) for n, m in narrow.named_modules()] == [(n, type(m)) for n, m in usual.named_modules()]
    ours, theirs = ([m for m in model.modules() if isinstance(m, nn.Conv2d)] for model in (narrow, usual))
    assert len(ours) == 20
    for convolution, like in zip(ours, theirs, strict=True):
        assert isinstance(convolution, CroppedConv2d)
        assert convolution.kernel_size == like.kernel_size
        assert (convolution.stride, convolution.padding) == (like.stride, like.padding)
        assert convolution.weight.is_contiguous(memory_format=torch.channels_last)
    # He et al. 2015, by outputs, as in the full network
    weight = LitResNet18(channels={"backbone.layer4.1.conv1": 256}).backbone.layer4[1].conv1.weight
    assert weight.std().item() == pytest.approx(math.sqrt(2 / (256 * 9)), rel=0.05)


def test_the_rest_of_the_network_is_the_full_one():
    """Without `channels`, the random weights are those of earlier versions."""
    torch.manual_seed(3)
    usual = LitResNet18().state_dict()
    torch.manual_seed(3)
    same = LitResNet18(channels=None).state_dict()
    assert all(torch.equal(usual[name], same[name]) for name in usual)
    some = LitResNet18(channels={"head.0": 7}).state_dict()
    assert {name for name in usual if usual[name].shape != some[name].shape} == {
        "head.0.weight",
        "head.0.bias",
        "head.2.weight",
    }


@pytest.mark.parametrize("stem", ["imagenet", "cifar"])
@pytest.mark.parametrize("batch_norm", ["train", "frozen"])
def test_channels_combine_with_other_arguments(stem, batch_norm):
    model = LitResNet18(channels=NARROW, stem=stem, batch_norm=batch_norm)
    assert model.backbone.conv1.weight.shape[-1] == (7 if stem == "imagenet" else 3)
    assert LitResNet18.architecture_of(model.state_dict()) == {"stem": stem, "channels": NARROW}
    before = model.backbone.bn1.running_mean.clone()
    model.train()(torch.randn(4, 3, 32, 32)).sum().backward()
    assert torch.equal(before, model.backbone.bn1.running_mean) == (batch_norm == "frozen")
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_channels_are_read_from_weights(narrow, tmp_path):
    path = tmp_path / "narrow.pt"
    torch.save(narrow.state_dict(), path)
    for argument in ("init_from", "weights"):
        given: dict[str, Any] = {argument: str(path)}
        again = LitResNet18(**given)
        assert again.hparams["channels"] == NARROW
        assert all(torch.equal(value, narrow.state_dict()[name]) for name, value in again.state_dict().items())
    torch.save(narrow.backbone.state_dict(), path)
    again = LitResNet18(weights=str(path))
    assert torch.equal(again.backbone.layer4[1].conv2.weight, narrow.backbone.layer4[1].conv2.weight)
    assert again.head[0].out_features == 100


@pytest.mark.parametrize(
    ("channels", "phrase"),
    [
        (
            {"backbone.layer1.0.conv2": 3},
            "`channels` to name layers whose channels can be set, but got `backbone.layer1.0.conv2`. HINT: "
            f"they are {', '.join(FULL_CHANNELS)}; the channels of all other layers follow from these.",
        ),
        *(
            (
                {"head.0": number},
                f"`channels` of `head.0` in [1, 100], but got {number}. ",
            )
            for number in (0, -3, 101, 2.0)
        ),
    ],
)
def test_impossible_channels_are_refused(channels, phrase):
    with pytest.raises(InputError, match=re.escape(phrase)):
        LitResNet18(channels=channels)


def test_weights_of_other_channels_are_refused(narrow, tmp_path):
    path = tmp_path / "narrow.pt"
    torch.save(narrow.state_dict(), path)
    with pytest.raises(InputError, match=r"with `backbone\.conv1\.weight` of shape .* instead of"):
        LitResNet18(init_from=str(path), channels=NARROW | {"backbone.conv1": 4})
    wide = narrow.state_dict() | {"backbone.conv1.weight": torch.zeros(1, 1, 1, 1).expand(10**9, 3, 7, 7)}
    torch.save(wide, path)  # a small file whose network would need terabytes
    with pytest.raises(InputError, match=r"with `backbone\.conv1\.weight` of shape"):
        LitResNet18(init_from=str(path))


@pytest.mark.gate
def test_a_run_from_narrow_weights_is_tested_and_resumed(narrow, run, tmp_path):
    torch.save(narrow.state_dict(), tmp_path / "narrow.pt")
    argv = [*TINY, "--name=narrow", "--model.init_from=narrow.pt"]
    assert run("fit", *argv, "--trainer.max_epochs=1").status == 0
    (tmp_path / "narrow.pt").unlink()
    last = "lightning_logs/narrow/version_0/checkpoints/last.ckpt"
    content = torch.load(last, weights_only=True)
    assert content["hyper_parameters"]["channels"] == NARROW
    assert content["lit_prune"]["settings"]["model"]["channels"] == NARROW
    assert LitResNet18.load_from_checkpoint(last, weights_only=True).hparams["channels"] == NARROW
    assert run("test", f"--ckpt_path={last}", "--trainer.accelerator=cpu").status == 0
    for again in (
        ["--config=lightning_logs/narrow/version_0/config.yaml", f"--ckpt_path={last}", "--name=other"],
        ["--resume=lightning_logs/narrow/version_0"],
    ):
        done = run("fit", *again, "--trainer.max_epochs=2", *TINY[-3:])
        assert done.status == 0, done.err
    one, other = (
        torch.load(f"lightning_logs/{name}/version_0/checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("narrow", "other")
    )
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert not torch.equal(one["head.0.weight"], content["state_dict"]["head.0.weight"])


def test_channels_are_given_as_json(run):
    done = run("fit", '--model.channels={"head.0": 7}', "--print_config")
    assert done.status == 0, done.err
    assert yaml.safe_load(done.out)["model"]["channels"] == {"head.0": 7}
