"""`lit-prune shrink`: it removes the right channels of all layers together, and the smaller network works."""

import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lit_prune import LitResNet18
from lit_prune.errors import InputError
from lit_prune.models.resnet18_channels import FULL_CHANNELS, channels_of
from lit_prune.trained.network import load_network
from lit_prune.trained.shrink import remove_channels, shrink_network
from tests.training.conftest import TINY

SMALL = {name: 4 + number % 3 for number, name in enumerate(FULL_CHANNELS)}
LARGE = {name: 2 * number for name, number in SMALL.items()}


def groups_of(layer: str) -> tuple[str | None, str | None]:
    """Return the groups of output and input channels of a ResNet-18 layer; None for classes and colours."""
    if layer.startswith("head."):
        return ("head.0", "backbone.layer4.0.conv2") if layer == "head.0" else (None, "head.0")
    if layer in ("backbone.conv1", "backbone.bn1"):
        return "backbone.conv1", None
    _, stage, block, part = layer.split(".")[:4]
    stream = ["backbone.conv1", *(f"backbone.layer{number}.0.conv2" for number in (2, 3, 4))]
    number = int(stage.removeprefix("layer"))
    after, inner = stream[number - 1], f"backbone.{stage}.{block}.conv1"
    before = stream[number - 2] if block == "0" and number > 1 else after
    return {"conv1": (inner, before), "bn1": (inner, None), "conv2": (after, inner), "bn2": (after, None)}.get(
        part, (after, before)
    )


def hidden(small: LitResNet18) -> tuple[LitResNet18, dict[str, Tensor]]:
    """Embed a network into one with twice the channels, the others dead; return it and the places of the channels."""
    large = LitResNet18(channels=LARGE)
    places = {name: torch.randperm(LARGE[name])[:number].sort().values for name, number in SMALL.items()}
    state = large.state_dict()
    for name, value in small.state_dict().items():
        if value.dim() == 0:
            continue
        whole = torch.ones_like(state[name]) if name.endswith("running_var") else torch.zeros_like(state[name])
        outputs, inputs = (None if group is None else places[group] for group in groups_of(name.rpartition(".")[0]))
        rows = torch.arange(len(value)) if outputs is None else outputs
        if value.dim() == 1:
            whole[rows] = value
        else:
            columns = torch.arange(value.shape[1]) if inputs is None else inputs
            whole[rows[:, None], columns[None]] = value
        state[name] = whole
    large.load_state_dict(state)
    return large.eval(), places


@pytest.fixture
def small():
    torch.manual_seed(1)
    model = LitResNet18(channels=SMALL)
    for module in model.modules():  # as after training
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return model.eval()


def test_dead_channels_are_removed_through_all_residual_connections(small):
    large, _ = hidden(small)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(large(images), small(images))
    before = {name: value.clone() for name, value in large.state_dict().items()}
    found = remove_channels(large, 0.5, 32, ["head.2"])
    state = small.state_dict()
    assert found.state_dict().keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in found.state_dict().items())
    assert {type(module) for module in found.modules()} >= {nn.Conv2d, nn.BatchNorm2d, nn.Linear}
    assert not any(type(module).__module__.startswith("lit_prune") for module in found.modules())
    assert all(torch.equal(value, before[name]) for name, value in large.state_dict().items())


class Chain(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1)

    def forward(self, images):
        return self.last(self.first(images).relu()).flatten(1)


def test_channels_of_smallest_magnitude_are_removed_and_the_classifier_is_kept():
    model = Chain()
    with torch.no_grad():
        for channel, size in enumerate([5, 1, 7, 2, 8, 3, 6, 4]):
            model.first.weight[channel] = size
            model.last.weight[:, channel] = 0.1
    found: Any = remove_channels(model, 0.5, 1, ["last"])
    assert found.first.weight[:, 0, 1, 1].tolist() == [5, 7, 8, 6]
    assert found.last.weight.shape == (5, 4, 1, 1)
    # weights that read a channel count too
    with torch.no_grad():
        model.last.weight[:, 1] = 100
    found = remove_channels(model, 0.5, 1, ["last"])
    assert found.first.weight[:, 0, 1, 1].tolist() == [1, 7, 8, 6]


def test_dead_taps_do_not_count():
    model = Chain()
    with torch.no_grad():
        model.last.weight.fill_(0.1)
        for channel in range(8):
            model.first.weight[channel] = 0.0 if channel < 4 else 50.0
            model.first.weight[channel, :, 1, 1] = 1.0 if channel < 4 else 0.5
    # at one pixel, only the centre of the kernel sees the image
    for size, left in ((1, 1.0), (8, 0.5)):
        found: Any = remove_channels(model, 0.5, size, ["last"])
        assert found.first.weight[:, 0, 1, 1].tolist() == [left] * 4


@pytest.mark.parametrize(
    ("ratio", "round_to", "kept"),
    [(0.5, 1, 4), (0.3, 1, 6), (0.99, 1, 1), (0.01, 1, 8), (0.3, 4, 4), (0.9, 4, 4), (0.5, 16, 8)],
)
def test_number_of_channels(ratio, round_to, kept):
    found: Any = remove_channels(Chain(), ratio, 8, ["last"], round_to)
    assert found.first.out_channels == kept


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((1.0, 8, ["last"]), "Expected `ratio` in (0, 1), but got 1.0. HINT: 0.5 removes half of the channels."),
        ((0.0, 8, ["last"]), "Expected `ratio` in (0, 1), but got 0.0. HINT: 0.5 removes half of the channels."),
        (
            (float("nan"), 8, ["last"]),
            "Expected `ratio` in (0, 1), but got nan. HINT: 0.5 removes half of the channels.",
        ),
        (
            (0.5, 8, ["last"], 0),
            "Expected `round_to` to be a positive integer, but got 0. HINT: 8 suits many processors, 1 does not round.",
        ),
        ((0.5, 8, ["end"]), "Expected `keep` to name layers, but got `end`. HINT: `named_modules()` lists them."),
    ],
)
def test_unusable_arguments_are_refused(arguments, sentence):
    with pytest.raises(InputError) as error:
        remove_channels(Chain(), *arguments)
    assert str(error.value) == sentence


def test_a_missing_library_is_reported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(InputError) as error:
        remove_channels(Chain(), 0.5, 8, ["last"])
    assert str(error.value) == (
        "The package `torch_pruning` is not installed. Install it with `pip install 'lit-prune[structured]'`."
    )


def test_remaining_channels_keep_their_zeros(checkpoint):
    network = load_network(str(checkpoint))
    found = shrink_network(network, 0.5)
    assert not found.training
    assert channels_of(found.state_dict()) == {name: number // 2 for name, number in FULL_CHANNELS.items()}
    whole, left = (model.state_dict()["backbone.conv1.weight"] for model in (network.require_model(), found))
    assert (left == 0).any()
    kernels = {kernel.numpy().tobytes() for kernel in whole}
    assert {kernel.numpy().tobytes() for kernel in left} < kernels


@pytest.mark.gate
def test_the_file_can_be_tested_fine_tuned_and_shrunk_again(run, checkpoint):
    done = run("shrink", str(checkpoint), "--ratio=0.75", "--output=small.ckpt", "--limit=20", "--data.val_size=20")
    assert done.status == 0, done.err
    rows = {line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in done.out.splitlines() if line.strip()}
    assert rows["backbone.layer4.1.conv2"] == ["512", "128"]
    assert rows["head.2"] == ["10", "10"]
    zeros = sum(
        int((value == 0).sum())
        for name, value in torch.load("small.ckpt", weights_only=True)["state_dict"].items()
        if name.endswith("weight")
    )
    assert rows["weights that are zero"][1] == f"{zeros:,}"
    assert "accuracy on 20 test images" in rows
    tested = run("test", "--ckpt_path=small.ckpt", "--trainer.accelerator=cpu", "--trainer.limit_test_batches=1")
    assert tested.status == 0, tested.err
    _, *suggested = shlex.split(done.out[done.out.index("lit-prune fit ") :])
    assert suggested == ["fit", "--model.init_from", "small.ckpt", "--data.source", "synthetic"]
    fitted = run(*suggested, *TINY, "--trainer.max_epochs=1", "--name=tuned")
    assert fitted.status == 0, fitted.err
    tuned = "lightning_logs/tuned/version_0/checkpoints/last.ckpt"
    assert run("shrink", tuned, "--ratio=0.5", "--round_to=8", "--output=smaller.ckpt").status == 0
    smaller = load_network("smaller.ckpt").require_model()
    assert len(smaller.state_dict()["backbone.layer4.1.conv2.weight"]) == 64
    assert len(smaller.state_dict()["backbone.conv1.weight"]) == 8
    assert smaller.hparams["output"] == "logits"


def test_a_custom_network_is_shrunk_in_python_only(run, foreign):
    done = run("shrink", str(foreign), "--ratio=0.5", "--output=o.ckpt", "--model=tests.training.small.SmallNet")
    assert done.status == 2
    assert f"Expected the weights of a LitResNet18 in `{foreign}`, but got those of a SmallNet" in done.complaint
    assert "in Python, `lit_prune.trained.shrink.remove_channels` removes channels" in done.complaint
    assert not Path("o.ckpt").exists()
    model = load_network(str(foreign), "tests.training.small.SmallNet").require_model()
    found: Any = remove_channels(model, 0.5, 32, ["head"])
    assert found(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert (found.first.out_channels, found.second.out_channels, found.head.in_features) == (4, 8, 8)


def test_inputs_of_any_shape_and_type():
    """One channel, vectors, float64; parameters that do not train stay so."""
    images = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Flatten(), nn.Linear(24, 3)).double()
    vectors: Any = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3))
    images[0].weight.requires_grad_(False)
    small: Any = remove_channels(images, 0.5, 6, ["4"])
    assert (small[0].out_channels, small[2].out_channels, small[4].in_features) == (4, 3, 12)
    assert small(torch.zeros(2, 1, 6, 6, dtype=torch.float64)).shape == (2, 3)
    assert [name for name, parameter in small.named_parameters() if not parameter.requires_grad] == ["0.weight"]
    small = remove_channels(vectors, 0.5, [5], ["2"])
    assert [layer.weight.shape for layer in (small[0], small[2])] == [(4, 5), (3, 4)]
    with torch.no_grad():
        vectors[0].weight[:2], vectors[0].bias[:2] = 0, 0
        small = remove_channels(vectors, None, [5], ["2"])
    assert len(small[0].weight) == 6
    with pytest.raises(InputError, match=r"^Expected a network that takes inputs of 4, and that torch-pruning"):
        remove_channels(vectors, 0.5, [4], ["2"])


@pytest.mark.gate
def test_it_loads_where_lit_prune_is_not_installed(tmp_path, small):
    text = (Path(__file__).parents[2] / "docs" / "how-to" / "export.md").read_text(encoding="utf-8")
    (block,) = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if "small.ckpt" in code]
    torch.save({"state_dict": small.state_dict()}, tmp_path / "small.ckpt")
    images = torch.randn(3, 3, 32, 32)
    torch.save(images, tmp_path / "images.pt")
    hidden = "import sys\nsys.modules['lit_prune'] = None\n"
    code = f"{hidden}{block}\ntorch.save(model(torch.load('images.pt')), 'logits.pt')\n"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), small(images))
