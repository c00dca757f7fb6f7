"""Reading checkpoints and weights: files that are read, and files that are refused in one sentence."""

import os
import pickle
import re
from collections import OrderedDict

import pytest
import torch
from torch import nn

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import check_state_dict, read_checkpoint, read_state_dict


class Harmful:
    """Creates a folder when it is unpickled without restrictions."""

    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def refusal(function, *args):
    with pytest.raises(InputError) as error:
        function(*args)
    return str(error.value)


@pytest.fixture
def checkpoint(tmp_path):
    path = tmp_path / "some.ckpt"
    weights = nn.Linear(2, 3).state_dict()
    torch.save({"state_dict": weights, "pytorch-lightning_version": "2.6.6", "epoch": 4}, path)
    return path


def test_checkpoints_and_bare_weights_are_read(checkpoint, tmp_path):
    weights = read_state_dict(checkpoint)
    assert {name: tuple(weight.shape) for name, weight in weights.items()} == {"weight": (3, 2), "bias": (3,)}
    assert read_checkpoint(checkpoint)["epoch"] == 4
    bare = tmp_path / "bare.pt"
    torch.save(OrderedDict(weights), bare)
    assert all(torch.equal(read_state_dict(bare)[name], weights[name]) for name in weights)
    old = tmp_path / "old.pt"
    torch.save(weights, old, _use_new_zipfile_serialization=False)
    assert all(torch.equal(read_state_dict(old)[name], weights[name]) for name in weights)


@pytest.mark.parametrize("read", [read_checkpoint, read_state_dict])
def test_missing_files(read, tmp_path):
    for path in (tmp_path / "none.ckpt", tmp_path):
        assert refusal(read, path) == (
            f"Expected the path of a file with weights, but got `{path}`, which does not exist. HINT: check the path."
        )


@pytest.mark.parametrize("read", [read_checkpoint, read_state_dict])
@pytest.mark.parametrize("content", [b"", b"hello, this is only text", b"\x80\x02garbage", bytes(range(256)) * 9])
def test_files_of_another_kind(read, content, tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    assert f"but got `{path}`, which is neither" in refusal(read, path)


@pytest.mark.parametrize("read", [read_checkpoint, read_state_dict])
@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_truncated_files(read, kept, checkpoint):
    whole = checkpoint.read_bytes()
    checkpoint.write_bytes(whole[: int(kept * len(whole))])
    assert refusal(read, checkpoint) == f"`{checkpoint}` is truncated or damaged. Copy or write it again."


@pytest.mark.parametrize("read", [read_checkpoint, read_state_dict])
def test_files_that_could_run_code_do_not(read, tmp_path):
    path, folder = tmp_path / "evil.ckpt", tmp_path / "made by the file"
    torch.save({"state_dict": {"weight": torch.ones(1)}, "more": Harmful(folder)}, path)
    assert f"but got `{path}`, which is unsafe: loading it also needs posix.mkdir. HINT: " in refusal(read, path)
    path.write_bytes(pickle.dumps(Harmful(folder)))
    assert "`torch.load(weights_only=True)` refuses to load" in refusal(read, path)
    assert not folder.exists()


@pytest.mark.parametrize(
    "content", [[torch.ones(1)], {}, {"a": 1}, {"state_dict": []}, {"state_dict": {"a": "b"}}, torch.ones(2)]
)
def test_files_without_named_tensors(content, tmp_path):
    path = tmp_path / "some.pt"
    torch.save(content, path)
    assert refusal(read_state_dict, path) == (
        f"Expected a state dict, with tensors by name, but got `{path}`, which holds something else. "
        "HINT: save `module.state_dict()`, or pass a checkpoint that a Trainer wrote."
    )


def test_bare_weights_are_no_checkpoint(tmp_path):
    path = tmp_path / "bare.pt"
    torch.save(nn.Linear(2, 3).state_dict(), path)
    assert refusal(read_checkpoint, path) == (
        f"Expected a checkpoint that a Trainer wrote, but got `{path}`, which holds something else. "
        "HINT: pass a state dict to `--model.weights` or `--model.init_from` instead."
    )


def test_weights_of_another_architecture_are_named():
    module = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    weights = module.state_dict()
    check_state_dict(module, weights, "x.pt")
    del weights["1.num_batches_tracked"]
    check_state_dict(module, weights, "x.pt")
    weights["0.weight"] = torch.ones(3, 4)
    del weights["0.bias"]
    weights |= {f"more.{i}": torch.ones(1) for i in range(5)}
    said = refusal(check_state_dict, module, weights, "x.pt")
    assert "the weights of a Sequential in `x.pt`, but got weights without `0.bias` and with the additional" in said
    assert "`more.0`, `more.1`, `more.2` and 2 more and with `0.weight` of shape (3, 4) instead of (3, 2)" in said
    assert "for `LitResNet18`, check the argument `stem`" in said


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_unreadable_files(checkpoint):
    checkpoint.chmod(0)
    assert re.fullmatch(
        r"Expected a file that can be read, but got `.*` \(Permission denied\)\. HINT: .*",
        refusal(read_checkpoint, checkpoint),
    )
