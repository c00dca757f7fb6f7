"""Accelerated networks are saved and loaded without pickle."""

import json
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from lit_prune import LitResNet18, accelerate, load_accelerated, save_accelerated
from lit_prune.errors import InputError

from .networks import Attends, kinds_of, make_images, prune


def _images():
    return make_images(), torch.randn(2, 3, 8, 8)


def _attends():
    return Attends(), (torch.randn(2, 3, 12), torch.randn(2, 3, 12))


def _encoder():
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    return nn.TransformerEncoder(layer, 2), torch.randn(2, 3, 12)


def _layer():
    return nn.Linear(6, 5), torch.randn(2, 6)


def _tied():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    return tied, torch.randn(2, 4)


def _resnet():
    return LitResNet18(), torch.randn(1, 3, 32, 32)


def _run(network, example):
    with torch.no_grad():
        return network(*(example if isinstance(example, tuple) else (example,)))


@pytest.mark.parametrize("make", [_images, _attends, _encoder, _layer, _tied, _resnet])
@pytest.mark.parametrize("kind", ["cropped", "sparse"])
def test_what_is_loaded_is_what_was_saved(set_speeds, tmp_path, make, kind):
    set_speeds(lambda name, found: 2.0 if found == kind else 0.5)
    model, example = make()
    fast = accelerate(prune(model), example)
    save_accelerated(fast, tmp_path / "fast.safetensors", {"classes": "a, b"})
    loaded = load_accelerated(tmp_path / "fast.safetensors", make()[0])
    assert kinds_of(loaded) == kinds_of(fast)
    assert not loaded.training
    torch.testing.assert_close(_run(loaded, example), _run(fast, example))
    assert str(loaded.acceleration) == str(fast.acceleration)
    with safe_open(tmp_path / "fast.safetensors", "pt") as file:
        assert file.metadata()["classes"] == "a, b"


@pytest.fixture
def saved(set_speeds, tmp_path):
    set_speeds(lambda name, kind: 2.0)
    path = tmp_path / "fast.safetensors"
    save_accelerated(accelerate(prune(make_images()), torch.randn(2, 3, 8, 8)), path)
    return path


def test_another_network_is_refused(saved):
    wider: Any = make_images()
    wider[8] = nn.Linear(6, 9)
    for other in (nn.Linear(3, 3), wider, nn.Sequential(*make_images()[:5])):
        with pytest.raises(InputError):
            load_accelerated(saved, other)


def _rewrite(path, change):
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = file.metadata()
    content = json.loads(metadata["lit_prune.accelerated"])
    change(tensors, content)
    save_file(tensors, path, metadata | {"lit_prune.accelerated": json.dumps(content)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensors, content: content.update(format=2), "another format"),
        (lambda tensors, content: content.pop("layers"), "`model` to be like"),
        (lambda tensors, content: content["layers"].pop("8"), "8"),
        (lambda tensors, content: content["layers"]["8"].update(kind="other"), "`model` to be like"),
        (lambda tensors, content: content.update(report={}), "`model` to be like"),
        (lambda tensors, content: tensors.pop("8.values"), "`model` to be like"),
        (lambda tensors, content: tensors["8.col_indices"].fill_(99), "indices of `8` are impossible"),
        (lambda tensors, content: tensors["8.crow_indices"].fill_(-1), "indices of `8` are impossible"),
        (lambda tensors, content: tensors.update(extra=torch.zeros(1)), "extra"),
    ],
)
def test_damaged_files_are_refused(saved, change, message):
    _rewrite(saved, change)
    with pytest.raises(InputError, match=message):
        load_accelerated(saved, make_images())


def test_files_of_other_kinds_are_refused(tmp_path):
    path = tmp_path / "file"
    with pytest.raises(InputError, match="does not exist"):
        load_accelerated(path, nn.Linear(1, 1))
    for content in (b"", b"no tensors at all", b"PK\x03\x04" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InputError, match="something else, truncated or damaged"):
            load_accelerated(path, nn.Linear(1, 1))
    for text in ("[" * 100_000, '{"format": ' + "1" * 5000 + "}", "[]"):
        save_file({"weight": torch.zeros(1)}, path, {"lit_prune.accelerated": text})
        with pytest.raises(InputError, match="something else, truncated or damaged"):
            load_accelerated(path, nn.Linear(1, 1))
    save_file({"weight": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="another format"):
        load_accelerated(path, nn.Linear(1, 1))


def test_other_networks_are_not_saved(set_speeds, tmp_path):
    with pytest.raises(InputError, match=r"network that `lit_prune.accelerate`"):
        save_accelerated(nn.Linear(2, 2), tmp_path / "file")
    assert not any(tmp_path.iterdir())
