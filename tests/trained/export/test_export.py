"""`lit-prune export`: files give the network's logits without lit-prune, and are not kept if they do not."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from lightning.pytorch import LightningModule
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn

import lit_prune
from lit_prune import LitResNet18
from lit_prune.data.augment import MEAN, STD
from lit_prune.errors import InputError, UnfinishedError
from lit_prune.files.compressed import read_compressed
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18_channels import FULL_CHANNELS
from lit_prune.trained.export import command as export
from lit_prune.trained.export.check import Check, check
from lit_prune.trained.export.graphs import write_onnx
from lit_prune.trained.inputs import image_inputs
from lit_prune.trained.network import load_network
from tests.bad_input.conftest import listing
from tests.trained.conftest import AMOUNT

CLASSES = "tests.training.small.SmallNet"

# opens exported files where neither lit_prune nor lightning can be imported
ELSEWHERE = """
import json, sys
sys.modules["lit_prune"] = sys.modules["lightning"] = None
import torch
from collections import OrderedDict
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from torchvision.models import resnet18

def network():
    backbone = resnet18()
    backbone.fc = nn.Identity()
    head = nn.Sequential(nn.Linear(512, 100), nn.ReLU(), nn.Linear(100, 10))
    return nn.Sequential(OrderedDict(backbone=backbone, head=head)).eval()

images, wanted = torch.load("wanted.pt")
found = {}
extra = {"class_names": "", "preprocessing": ""}
found["torchexport"] = torch.export.load("net.pt2", extra_files=extra).module()(images)
print(json.loads(extra["class_names"])[0])

plain = network()
plain.load_state_dict(torch.load("net.pt"))
found["state_dict"] = plain(images)

with safe_open("net.safetensors", "pt") as file:
    state, about = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()
found["pickle"] = torch.load("pickled.pt", weights_only=False)(images)

cropped = network()
for name, now in json.loads(about["cropped_convolutions"]).items():
    layer = cropped.get_submodule(name)
    layer.weight = nn.Parameter(state[f"{name}.weight"])
    layer.kernel_size, layer.padding = tuple(now["kernel_size"]), tuple(now["padding"])
cropped.load_state_dict(state)
found["safetensors"] = cropped(images)
for name, logits in found.items():
    print(name, float((logits - wanted).abs().max()) < 1e-4 * float(wanted.abs().max()))
"""


def exported(run, checkpoint, kind, output, *options):
    answer = run("export", str(checkpoint), "--format", kind, "--output", output, *options)
    assert (answer.status, answer.err) == (0, "")
    return answer.out


def random_images(count, size=32):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def logits(checkpoint, images, model=None):
    with torch.no_grad():
        return load_network(str(checkpoint), model).require_model()(images)


@pytest.mark.gate
def test_onnx_gives_the_same_logits_and_accuracy_and_describes_its_input(run, checkpoint, tmp_path):
    said = exported(run, checkpoint, "onnx", "net.onnx", "--crop", "--limit=60")
    assert re.search(r"differ from the checkpoint's by at most \S+ on 10 random images \(allowed: \S+\)", said)
    assert "on 60 test images" in said
    accuracies = re.search(
        r"accuracy\s+(\S+)% of 60 test images \((\d+) right\); the checkpoint has (\S+)% \((\d+)", said
    )
    assert accuracies is not None
    assert accuracies[1] == accuracies[3] == f"{int(accuracies[2]) / 0.6:.2f}"

    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 5):
        images = random_images(count)
        (found,) = session.run(["logits"], {"images": images.numpy()})
        np.testing.assert_allclose(found, logits(checkpoint, images).numpy(), atol=1e-4, rtol=1e-4)
    about = session.get_modelmeta().custom_metadata_map
    assert about["lit_prune_version"] == lit_prune.__version__
    assert json.loads(about["input"]) == {
        "layout": "NCHW",
        "channels": 3,
        "height": 32,
        "width": 32,
        "dtype": "float32",
    }
    assert json.loads(about["preprocessing"])["mean"] == list(MEAN)
    assert json.loads(about["preprocessing"])["std"] == list(STD)
    assert len(json.loads(about["class_names"])) == 10
    assert 0 < json.loads(about["sparsity"]) < 1
    content = (tmp_path / "net.onnx").read_bytes()
    assert len(content) < 0.41 * 45_000_000  # 61.9% of the weights only ever see padding
    assert b"site-packages" not in content
    assert not re.search(rb"lit_prune[./]", content)


@pytest.mark.gate
def test_files_open_where_lit_prune_is_not_installed(run, checkpoint, tmp_path):
    images = random_images(3)
    torch.save((images, logits(checkpoint, images)), "wanted.pt")
    torch.save(plain_copy(load_network(str(checkpoint)).require_model()), "pickled.pt")
    exported(run, checkpoint, "torchexport", "net.pt2")
    exported(run, checkpoint, "state_dict", "net.pt")
    with torch.no_grad():  # training can start from it too
        assert torch.equal(LitResNet18(init_from="net.pt").eval()(images), logits(checkpoint, images))
    said = exported(run, checkpoint, "safetensors", "net.safetensors", "--crop")
    assert "removed: 6,946,816 others (61.9% of all)" in said
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ELSEWHERE], capture_output=True, text=True, check=False
    )
    kinds = ["torchexport", "state_dict", "pickle", "safetensors"]
    assert done.stdout.splitlines()[1:] == [f"{kind} True" for kind in kinds], done.stderr
    assert b"site-packages" not in (tmp_path / "net.pt2").read_bytes()


@pytest.mark.gate
def test_compressed_weights_are_read_back_bit_for_bit(run, checkpoint, tmp_path):
    said = exported(run, checkpoint, "safetensors", "net.small", "--compress")
    found = lit_prune.load_compressed("net.small")
    wanted = plain_copy(load_network(str(checkpoint)).require_model()).state_dict()
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)
    dense = sum(tensor.nbytes for tensor in wanted.values())
    size = (tmp_path / "net.small").stat().st_size
    assert f"dense     {dense:>13,}" in said
    assert f"masked    {dense:>13,}" in said
    assert f"compressed{size:>13,}  {size / dense:.1%} of dense, at {AMOUNT:.2%} sparsity" in said
    assert size < 0.70 * dense
    assert json.loads(read_compressed("net.small")[1]["sparsity"]) == AMOUNT


@pytest.mark.gate
def test_accelerated_networks_are_loaded_with_the_class_of_the_network(run, checkpoint):
    said = exported(run, checkpoint, "accelerated", "net.fast", "--batch=4")
    assert "on 4 random images" in said
    assert "for any number of images of 3x32x32, fastest for 4" in said
    assert re.search(r"layer +zeros +dense, ms", said)
    assert "layers were converted" in said or "No layer was converted" in said
    model = load_network(str(checkpoint)).require_model()
    loaded = lit_prune.load_accelerated("net.fast", LitResNet18())
    for count in (1, 4, 9):
        images = random_images(count)
        with torch.no_grad():
            torch.testing.assert_close(loaded(images), model(images), rtol=1e-3, atol=1e-4)
    with safe_open("net.fast", "pt") as file:
        assert len(json.loads(file.metadata()["class_names"])) == 10


def test_accelerated_networks_need_a_network_that_can_be_run(run, checkpoint, foreign):
    for options in (["--crop"], ["--compress"], ["--opset=18"]):
        answer = run("export", str(checkpoint), "--format=accelerated", "--output=net.fast", *options)
        assert answer.status != 0
        assert "`accelerated`" in answer.err
    said = exported(run, foreign, "accelerated", "net.fast", "--model", CLASSES)
    assert "differ from the checkpoint's by at most" in said


@pytest.mark.parametrize("kind", ["safetensors", "state_dict"])
def test_values_of_negated_and_conjugated_views_are_written(run, kind):
    weights = torch.randn(8, dtype=torch.complex64)
    torch.save({"negated": weights.real.contiguous()._neg_view(), "conjugated": weights.conj()}, "views.pt")
    exported(run, "views.pt", kind, "out")
    found = load_file("out") if kind == "safetensors" else torch.load("out", weights_only=True)
    assert torch.equal(found["negated"], -weights.real)
    assert torch.equal(found["conjugated"], weights.conj())


def test_classes_of_a_bare_state_dict_are_not_known(run):
    """Its ten classes can be those of any data."""
    torch.save(LitResNet18(channels=dict.fromkeys(FULL_CHANNELS, 8)).state_dict(), "bare.pt")
    assert "class names and preprocessing are not known" in exported(run, "bare.pt", "safetensors", "net.safetensors")
    with safe_open("net.safetensors", "pt") as file:
        assert not {"class_names", "preprocessing"} & file.metadata().keys()


def test_a_custom_network_is_exported_with_the_name_of_its_class(run, foreign):
    said = exported(run, foreign, "onnx", "net.onnx", "--model", CLASSES, "--batch=3", "--opset=18")
    assert "onnx with operators of version 18, for batches of 3 images of 3x32x32" in said
    assert "class names and preprocessing are not known" in said
    session = onnxruntime.InferenceSession("net.onnx", providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, 3, 32, 32]
    assert "class_names" not in session.get_modelmeta().custom_metadata_map
    images = random_images(3)
    (found,) = session.run(["logits"], {"images": images.numpy()})
    np.testing.assert_allclose(found, logits(foreign, images, CLASSES).numpy(), atol=1e-5)


def test_weights_of_a_custom_network_need_no_class(run, foreign):
    said = exported(run, foreign, "safetensors", "net.safetensors")
    assert "checked     the weights read back from the file equal those written, bit for bit" in said
    wanted = load_network(str(foreign)).state_dict
    with safe_open("net.safetensors", "pt") as file:
        assert set(file.keys()) == set(wanted)
        assert all(torch.equal(file.get_tensor(name), wanted[name]) for name in wanted)
        assert "class_names" not in file.metadata()


def test_the_file_has_the_given_input_size(run, foreign):
    said = exported(run, foreign, "torchexport", "net.pt2", "--model", CLASSES, "--input_size=20", "--batch=dynamic")
    assert "for any number of images of 3x20x20" in said


def failing(run, checkpoint, *options):
    """Export into an empty folder, and check that it stays empty."""
    answer = run("export", str(checkpoint), "--output=net.out", *options)
    assert listing(Path()) == {}
    return answer.status, answer.complaint


def test_a_file_with_other_logits_is_not_kept(run, foreign, monkeypatch):
    monkeypatch.setattr(export, "run_torchexport", lambda path: lambda images: torch.zeros(len(images), 10))
    status, said = failing(run, foreign, "--model", CLASSES, "--format=torchexport")
    assert status == 1
    assert re.fullmatch(
        r"The exported file computes logits that differ from the network's by \S+ on random images; at most \S+ is "
        r"allowed\. .+",
        said,
    )


def test_a_file_that_is_wrong_only_on_test_images_is_not_kept(run, checkpoint, monkeypatch):
    def wrong(model, run, images):
        found = check(model, run, images)
        return found if found.scores is None else Check(1, 3.0, 1.0, 1)

    monkeypatch.setattr(export, "check", wrong)
    status, said = failing(run, checkpoint, "--format=state_dict", "--limit=10")
    assert status == 1
    assert "logits that differ from the network's by 3 on test images" in said


def test_weights_that_are_read_back_differently_are_not_kept(run, foreign, monkeypatch):
    def one_bit(path):
        state = {name: tensor.clone() for name, tensor in load_file(path).items()}
        state["first.bias"].view(torch.int32)[0] ^= 1
        return state

    monkeypatch.setattr("safetensors.torch.load_file", one_bit)
    status, said = failing(run, foreign, "--format=safetensors")
    assert status == 1
    assert said.startswith("The weights read back from the file differ from those that were written. The file was")


def test_an_existing_file_stays_if_the_new_one_fails(run, foreign, monkeypatch, tmp_path):
    (tmp_path / "net.out").write_text("mine")
    monkeypatch.setattr(export, "run_torchexport", lambda path: lambda images: torch.zeros(len(images), 10))
    answer = run("export", str(foreign), "--model", CLASSES, "--format=torchexport", "--output=net.out")
    assert answer.status == 1
    assert (tmp_path / "net.out").read_text() == "mine"
    assert len(listing(tmp_path)) == 1


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_reported_in_one_sentence(run, foreign, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    assert failing(run, foreign, "--model", CLASSES, "--format=onnx") == (
        2,
        f"The package `{package}` is not installed. Install it with `pip install 'lit-prune[export]'`.",
    )


def test_compressed_weights_of_a_custom_network_need_no_class(run, foreign):
    exported(run, foreign, "safetensors", "net.small", "--compress")
    assert lit_prune.load_compressed("net.small").keys() == load_network(str(foreign)).state_dict.keys()


class Choosing(LightningModule):
    """A network whose computation depends on values."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, images):
        features = self.layer(images).mean((2, 3))
        return features if float(features.sum()) > 0 else -features


class Pair(Choosing):
    def forward(self, images):
        return images, images


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Choosing,
            r"Expected a network that torch\.export can trace, but got .+\. HINT: what `forward` does may depend on .+",
        ),
        (
            Pair,
            r"Expected a network that returns one tensor, with 2 rows for 2 images, but got a tuple\. HINT: wrap .+",
        ),
    ],
)
def test_a_network_that_cannot_be_traced_is_reported_in_one_sentence(run, kind, said):
    torch.save(kind().state_dict(), "../other.pt")
    status, found = failing(run, "../other.pt", "--model", f"{__name__}.{kind.__name__}", "--format=torchexport")
    assert status == 2
    assert re.fullmatch(said, found)


def test_a_signal_during_tracing_is_not_blamed_on_the_network(tmp_path):
    class Interrupted(Choosing):
        def forward(self, images):
            raise UnfinishedError("stop", 130)

    with pytest.raises(UnfinishedError, match="stop"):
        write_onnx(Interrupted().eval(), tmp_path / "x.onnx", image_inputs(3, 8, 8))


def test_a_wrong_input_size_is_reported_in_one_sentence(tmp_path):
    with pytest.raises(
        InputError, match=r"Expected a network that takes images of 3x1x1, but got .+ HINT: set `example_input_array`"
    ):
        write_onnx(nn.Conv2d(3, 1, 5), tmp_path / "x.onnx", image_inputs(3, 1, 1))


def test_the_checkpoint_is_not_changed(run, foreign):
    before = foreign.read_bytes()
    exported(run, foreign, "state_dict", "net.pt")
    assert foreign.read_bytes() == before


def test_masks_of_torch_become_positive_zeros(run):
    torch.save({"a.weight_orig": -torch.ones(2, 2), "a.weight_mask": torch.eye(2)}, "../masked.pt")
    exported(run, "../masked.pt", "state_dict", "net.pt")
    assert str(torch.load("net.pt")["a.weight"].tolist()) == "[[-1.0, 0.0], [0.0, -1.0]]"
