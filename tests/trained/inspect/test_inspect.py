"""`lit-prune inspect`: every number matches the file, for known, custom and unknown networks."""

import csv
import io
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.nn.utils import prune

from lit_prune.cli.figures import new_figure, styled
from lit_prune.errors import InputError
from lit_prune.functional.packing import unpack_masks
from lit_prune.trained.flops import LayerFlops, count_flops
from lit_prune.trained.inspect.figures import draw_layers, draw_magnitudes, thresholds
from lit_prune.trained.layers import Inspection, Layer, inspect
from lit_prune.trained.network import Network, load_network
from tests.trained.conftest import AMOUNT
from tests.training.conftest import TINY
from tests.training.small import SmallNet

SMALL = "--model=tests.training.small.SmallNet"


def read_csv(text: str) -> dict[str, dict[str, str]]:
    return {row["layer"]: row for row in csv.DictReader(io.StringIO(text))}


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """The weights of a SmallNet, with a quarter of one layer zero."""
    torch.manual_seed(0)
    net = SmallNet()
    with torch.no_grad():
        net.second.weight[:4] = 0
    path = tmp_path / "small.pt"
    torch.save(net.state_dict(), path)
    return path


def test_every_number_matches_the_file(run, checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    callbacks = content["callbacks"]
    masks = unpack_masks(next(s["masks"] for key, s in callbacks.items() if key.startswith("GlobalL1Pruning")))
    touched = unpack_masks(next(s["touched"] for key, s in callbacks.items() if key.startswith("SparsityMonitor")))
    found = read_csv(run("inspect", str(checkpoint), "--format=csv").out)
    model = load_network(str(checkpoint)).require_model()
    counted = count_flops(model, (3, 32, 32))
    weights = {name: content["state_dict"][f"{name}.weight"] for name in masks}
    assert list(found) == list(counted)
    assert found.keys() == weights.keys()
    for name, row in found.items():
        weight, kept = weights[name], weights[name][weights[name] != 0].abs()
        assert row == {
            "layer": name,
            "shape": "x".join(map(str, weight.shape)),
            "weights": str(weight.numel()),
            "zeros": str(int((weight == 0).sum())),
            "sparsity": str(int((weight == 0).sum()) / weight.numel()),
            "masked": str(int((~masks[name]).sum())),
            "frozen": "False",
            "smallest": str(float(kept.min())),
            "largest": str(float(kept.max())),
            "infinite": "0",
            "untouched": str(int((~touched[name]).sum())),
            "flops": str(counted[name].nominal),
            "flops_nonzero": str(counted[name].nonzero),
        }
    total = sum(int(row["weights"]) for row in found.values())
    assert sum(int(row["zeros"]) for row in found.values()) == round(AMOUNT * total)
    # at 32x32, eight of nine taps in the last convolutions only ever see padding
    assert int(found["backbone.layer4.1.conv2"]["untouched"]) >= 8 / 9 * 512 * 512 * 9


def test_json_has_totals_of_all_layers(run, checkpoint):
    answer = run("inspect", str(checkpoint), "--format", "json", "--input_size=64")
    found = json.loads(answer.out)
    assert answer.err == ""
    for name in ("weights", "zeros", "masked", "infinite", "untouched", "flops", "flops_nonzero"):
        assert found["total"][name] == sum(layer[name] for layer in found["layers"]) > -1
    assert found["total"]["smallest"] == min(layer["smallest"] for layer in found["layers"])
    assert found["total"]["largest"] == max(layer["largest"] for layer in found["layers"])
    assert found["total"]["sparsity"] == pytest.approx(AMOUNT, abs=1e-6)
    assert found["total"]["flops"] == pytest.approx(4 * 73.9e6, rel=0.01)
    state = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert found["total"]["weights"] + found["others"]["values"] == sum(tensor.numel() for tensor in state.values())
    assert (found["network"], found["epoch"], found["input_shape"]) == ("LitResNet18", 0, [3, 64, 64])


def test_the_table_explains_itself(run, checkpoint):
    lines = run("inspect", str(checkpoint)).out.splitlines()
    assert lines[0] == f"{checkpoint}: LitResNet18, checkpoint of epoch 0, step 4"
    columns = [
        "layer",
        "shape",
        "weights",
        "sparsity",
        "frozen",
        "smallest",
        "largest",
        "no gradient",
        "MFLOPs",
        "non-zero",
    ]
    assert lines[2].split() == " ".join(columns).split()
    (row,) = [line.split() for line in lines if line.startswith("head.2 ")]
    assert row[1:3] == ["10x100", "1,000"]
    assert row[4] == "no"
    (total,) = [line.split() for line in lines if line.startswith("all ")]
    assert total[:6] == ["all", "11,219,112", "30.00%", "0", "of", "22"]
    assert "Masks held 3,365,734 weights at zero when this file was written." in lines
    assert "MFLOPs: for one input of 3x32x32; a multiply-add is 2 FLOPs." in lines
    assert not any(line.startswith("Columns left out") for line in lines)


def test_a_state_dict_tells_less_than_its_checkpoint(run, checkpoint, tmp_path):
    whole = read_csv(run("inspect", str(checkpoint), "--format=csv").out)
    torch.save(torch.load(checkpoint, weights_only=True)["state_dict"], tmp_path / "bare.pt")
    bare = read_csv(run("inspect", "bare.pt", "--format=csv").out)
    unknown = {"masked": "", "frozen": "", "untouched": ""}
    assert bare == {name: row | unknown for name, row in whole.items()}
    lines = run("inspect", "bare.pt").out.splitlines()
    assert lines[0] == "bare.pt: LitResNet18, epoch not known"
    assert lines[-1] == "Columns left out, because their values are not known: frozen, no gradient."


def test_a_custom_network(run, foreign):
    alone = read_csv(run("inspect", str(foreign), "--format=csv").out)
    named = read_csv(run("inspect", str(foreign), SMALL, "--format=csv").out)
    assert list(alone) == list(named) == ["first", "second", "head"]
    assert {row["flops"] for row in alone.values()} == {""}
    assert {name: row["flops"] for name, row in named.items()} == {
        "first": str(2 * 15 * 15 * 8 * 27),
        "second": str(2 * 7 * 7 * 16 * 72),
        "head": "320",
    }
    assert {name: row | {"flops": "", "flops_nonzero": ""} for name, row in named.items()} == alone
    lines = run("inspect", str(foreign)).out.splitlines()
    assert lines[0].startswith(f"{foreign}: tensors of an unknown network, checkpoint of epoch 0")
    hint = "; to count FLOPs, name the network's class with `--model module.Class`."
    assert lines[-1] == f"Columns left out, because their values are not known: no gradient, MFLOPs, non-zero{hint}"


def test_a_state_dict_of_an_unknown_network(run, small):
    found = read_csv(run("inspect", str(small), "--format=csv").out)
    assert [found["second"][key] for key in ("shape", "weights", "zeros", "masked", "frozen")] == [
        "16x8x3x3", "1152", "288", "", "",
    ]  # fmt: skip
    assert json.loads(run("inspect", str(small), "--format=json").out)["others"]["tensors"] == 8


def test_a_state_dict_with_masks_of_torch(run, tmp_path):
    torch.manual_seed(0)
    net: Any = SmallNet()
    prune.l1_unstructured(net.second, "weight", 0.5)
    torch.save(net.state_dict(), tmp_path / "masked.pt")
    found = read_csv(run("inspect", "masked.pt", SMALL, "--format=csv").out)
    assert [found[name]["masked"] for name in found] == ["0", "576", "0"]
    assert [found[name]["zeros"] for name in found] == ["0", "576", "0"]
    assert found["second"]["flops_nonzero"] == str(2 * 49 * 576)


def test_frozen_layers_match_the_callback(run):
    freezing = ["--trainer.callbacks+=LayerFreezing", "--trainer.callbacks.layers=[first,norm]"]
    answer = run("fit", *TINY, SMALL, "--trainer.max_epochs=1", "--name=frozen", *freezing)
    assert answer.status == 0, answer.err
    path = "lightning_logs/frozen/version_0/checkpoints/last.ckpt"
    found = read_csv(run("inspect", path, "--format=csv").out)
    assert {name: row["frozen"] for name, row in found.items()} == {"first": "True", "second": "False", "head": "False"}
    (total,) = [line.split() for line in run("inspect", path).out.splitlines() if line.startswith("all ")]
    assert total[3:6] == ["1", "of", "3"]
    # as written by a version that did not store them
    content = torch.load(path, weights_only=True)
    del content["lit_prune_frozen"]
    torch.save(content, "old.ckpt")
    assert {row["frozen"] for row in read_csv(run("inspect", "old.ckpt", "--format=csv").out).values()} == {""}


def test_a_diverged_network(run, tmp_path):
    net = SmallNet()
    with torch.no_grad():
        net.second.weight[:2] = float("nan")
        net.second.weight[2] = float("inf")
        net.head.weight[:] = float("nan")
        net.first.weight[:] = 0
    torch.save(net.state_dict(), tmp_path / "nan.pt")
    answer = run("inspect", "nan.pt", "--format=json", "--plot=nan.png")
    layers = {layer["layer"]: layer for layer in json.loads(answer.out, parse_constant=pytest.fail)["layers"]}
    assert {name: layer["infinite"] for name, layer in layers.items()} == {"first": 0, "second": 216, "head": 160}
    assert (layers["head"]["smallest"], layers["head"]["largest"]) == (None, None)
    assert (layers["first"]["smallest"], layers["first"]["largest"]) == (None, 0.0)
    assert 0 < layers["second"]["smallest"] < layers["second"]["largest"] < 1
    assert "NaN or infinite: 376 weights, first in `second`." in run("inspect", "nan.pt").out.splitlines()
    assert Path("nan.png").stat().st_size > 10_000


def test_a_network_without_images_needs_an_input_size_for_flops():
    class Dense(nn.Module):
        example_input_array = None

        def __init__(self) -> None:
            super().__init__()
            self.only = nn.Linear(4, 2)

        def forward(self, x):
            return self.only(x)

    model: Any = Dense()
    network = Network("x.ckpt", {}, model, {}, {}, {}, model.state_dict())
    assert inspect(network).layers[0].flops is None
    assert inspect(network, (4,)).total.flops == LayerFlops(16, 16)
    model.example_input_array = torch.zeros(2, 4)
    assert inspect(network).input_shape == (4,)
    with pytest.raises(InputError, match=r"^Expected `input_size`"):
        inspect(network, 32)


def test_a_total_is_unknown_if_it_is_unknown_for_a_layer():
    def layer(name, **known):
        settings = {"masked": None, "frozen": None, "smallest": None, "largest": None, "untouched": None, "flops": None}
        return Layer(name, (2,), 2, 1, infinite=0, **(settings | known))

    known = layer("a", masked=1, untouched=2, smallest=0.5, largest=1.0, flops=LayerFlops(4, 2))
    total = Inspection("x", None, None, None, None, (known, known), 0, 0).total
    assert (total.masked, total.untouched, total.smallest, total.flops) == (2, 4, 0.5, LayerFlops(8, 4))
    total = Inspection("x", None, None, None, None, (known, layer("b")), 0, 0).total
    assert (total.masked, total.untouched, total.smallest, total.flops) == (None, None, 0.5, None)


@pytest.mark.parametrize("counts", [{"zeros": 3}, {"masked": 3}, {"untouched": -1}, {"infinite": 3}])
def test_impossible_counts_are_refused(counts):
    parts = {"zeros": 0, "masked": 0, "infinite": 0, "untouched": 0} | counts
    with pytest.raises(InputError, match=r"^Expected counts from 0 to 2 for layer `a`, but got "):
        Layer(name="a", shape=(2,), weights=2, frozen=None, smallest=None, largest=None, flops=None, **parts)


def test_thresholds_are_order_statistics():
    kept = np.arange(1, 101, dtype=np.float32)
    assert thresholds(kept, 100) == {30.0: 30.0, 50.0: 50.0, 80.0: 80.0, 90.0: 90.0}
    # half of 200 are zero: 80% needs the 60 smallest of the others
    assert thresholds(kept, 200) == {50.0: 1.0, 80.0: 60.0, 90.0: 80.0, 95.0: 90.0}
    untouched = kept >= 7
    assert thresholds(kept, 200, untouched)[50.0] == 7
    assert thresholds(kept, 200, np.zeros(100, dtype=bool))[50.0] == 1


def draw(state: dict[str, torch.Tensor], path: Path, touched: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """Return the axes of both plots of a network of unknown class."""
    torch.save(state, path)
    network = replace(load_network(str(path)), touched=touched)
    found = inspect(network)
    with styled():
        layers, magnitudes = new_figure(9, 5), new_figure(9, 4)
        draw_layers(layers, found)
        draw_magnitudes(magnitudes, network, found)
    return layers.axes, magnitudes.axes[0]


def test_an_unpruned_network_has_no_empty_panel(tmp_path):
    torch.manual_seed(0)
    state = {f"{name}.weight": torch.randn(40, 50) for name in ("a", "b")}
    layers, magnitudes = draw(state, tmp_path / "plain.pt", {})
    assert [axes.get_xlabel() for axes in layers] == ["thousand weights"]
    assert [label.get_text() for label in layers[0].get_yticklabels()] == ["a", "b"]
    # the smallest weights, which would leave the left of the plot empty, are not shown
    assert magnitudes.get_xlim()[0] > 1e-3
    assert magnitudes.get_xlabel() == "magnitude (without the smallest 0.5%)"
    state["a.weight"][0] = 0
    layers, _ = draw(state, tmp_path / "pruned.pt", {})
    assert [axes.get_xlabel() for axes in layers] == ["% of the layer's weights", "thousand weights"]


def test_the_cut_of_the_last_pruning_is_no_threshold(tmp_path):
    """30% of the weights were pruned at 0.3; after the masks were removed, those with a gradient grew to 0.1."""
    weight = torch.linspace(0.001, 1, 1000).reshape(20, 50)
    touched = (torch.arange(1000) % 2 == 0).reshape(20, 50)
    pruned = weight < 0.3
    weight[pruned] = torch.where(touched[pruned], 0.1, 0.0)
    _, axes = draw({"a.weight": weight}, tmp_path / "free.pt", {"a": touched})
    dotted = [line.get_xdata()[0] for line in axes.get_lines() if line.get_linestyle() == ":"]
    assert dotted == [pytest.approx(0.3, abs=0.005)]
    labels = {text.get_text(): text.get_position()[0] for text in axes.texts}
    assert list(labels) == ["30%", "50%", "80%"]  # not 15%, the sparsity of today
    assert sorted(labels.values()) == list(labels.values())
    assert labels["30%"] <= dotted[0]


def _blue(path: Path) -> float:
    """Return the fraction of a picture that bars of weights cover."""
    with Image.open(path) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    assert pixels.shape[1] == 990
    share: float = (pixels == (0, 114, 178)).all(axis=2).mean()
    return share


def test_one_file_holds_both_plots(run, checkpoint, tmp_path):
    assert run("inspect", str(checkpoint), "--plot=all.png").status == 0
    assert [path.name for path in tmp_path.iterdir()] == ["all.png"]
    assert _blue(tmp_path / "all.png") > 0.01


def test_a_folder_gets_one_file_for_each_plot(run, small, tmp_path):
    (tmp_path / "pictures").mkdir()
    assert run("inspect", str(small), "--plot", "pictures", SMALL).status == 0
    found = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in found] == ["layers.png", "magnitudes.png"]
    assert all(_blue(path) > 0.01 for path in found)


def test_a_network_of_zeros_is_plotted(run, small, tmp_path):
    state = {name: torch.zeros_like(tensor) for name, tensor in torch.load(small, weights_only=True).items()}
    torch.save(state, "zero.pt")
    assert run("inspect", "zero.pt", "--plot=zero.png").status == 0
    assert _blue(tmp_path / "zero.png") > 0.01


def test_a_closed_pipe_is_not_an_error(run, small, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as closed:
        monkeypatch.setattr(sys, "stdout", closed)
        answer = run("inspect", str(small))
    assert (answer.status, answer.err) == (0, "")


def test_control_characters_and_very_many_layers(run, tmp_path):
    state = {f"layer{n}.weight": torch.ones(1, 2) for n in range(210)}
    state |= {"\x1b[2Jred.weight": torch.ones(1, 2), "層.weight": torch.ones(1, 2), "x" * 500: torch.ones(2, 2)}
    torch.save(state, "strange.pt")
    answer = run("inspect", "strange.pt", "--plot=strange.png")
    assert (answer.status, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert "\x1b" not in answer.out
    assert sum(line.startswith("\\x1b[2Jred ") for line in lines) == 1
    assert sum(line.startswith("層 ") for line in lines) == 1
    assert max(map(len, lines)) < 220
    with Image.open("strange.png") as picture:
        assert picture.height < 5_000
    # formats for programs keep names exactly
    assert read_csv(run("inspect", "strange.pt", "--format=csv").out).keys() >= {"\x1b[2Jred", "x" * 500}
