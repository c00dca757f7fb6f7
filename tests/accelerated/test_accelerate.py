"""Layers are converted where that is faster, and only where it is right."""

import copy
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import prune as torch_prune

from lit_prune import LitResNet18, accelerate
from lit_prune.accelerated.convolutions import ConvolutionMatrix, SparseConv2d
from lit_prune.accelerated.linear import SparseLinear
from lit_prune.errors import InputError, UnfinishedError
from lit_prune.functional import apply_masks, weight_layers
from lit_prune.functional.masking import current_mask

from .networks import Attends, kinds_of, make_images, prune


def _fast(name, kind):
    """Everything but dense layers is fast, sparse ones most of all."""
    return 3.0 if kind == "sparse" else 2.0


def _linear(*widths):
    return prune(nn.Sequential(*(nn.Linear(a, b) for a, b in pairwise(widths))))


def test_outputs_are_those_of_the_model_for_any_batch(set_speeds):
    set_speeds(_fast)
    model = prune(make_images())
    fast: Any = accelerate(model, torch.randn(2, 3, 8, 8))
    assert kinds_of(fast) == {
        "0": SparseConv2d,
        "3": SparseConv2d,
        "5": ConvolutionMatrix,
        "6": ConvolutionMatrix,
        "8": SparseLinear,
    }
    for batch in (1, 2, 5, 70):
        images = torch.randn(batch, 3, 8, 8)
        with torch.no_grad():
            torch.testing.assert_close(fast(images), model(images))


def test_measured_times_decide():
    """Without set speeds: whatever wins on this machine, nothing goes wrong."""
    model = _linear(600, 600, 3, 2)
    example = torch.randn(4, 600)
    fast: Any = accelerate(model, example, rounds=3)
    report = fast.acceleration
    assert [layer.name for layer in report.layers] == ["0", "1", "2"]
    assert set(kinds_of(fast)) == set(report.converted)
    for layer in report.layers:
        assert {kind: len(times) for kind, times in layer.seconds.items()} == {"dense": 3, "sparse": 3}
        assert all(time > 0 for times in layer.seconds.values() for time in times)
    assert report.speed >= 1 or not report.converted
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))


def test_the_model_and_the_example_stay_as_they_are(set_speeds):
    set_speeds(_fast)
    model: Any = make_images()
    model.insert(0, nn.ReLU(inplace=True))  # overwrites its input
    model = prune(model).train()
    before, example = copy.deepcopy(model.state_dict()), torch.randn(2, 3, 8, 8)
    kept = example.clone()
    fast: Any = accelerate(model, example)
    assert model.training
    assert not fast.training
    assert torch.equal(example, kept)
    assert {type(module) for module in model.modules()} == {
        *map(type, make_images().modules()),
    }
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_losers_stay_dense(set_speeds):
    set_speeds(lambda name, kind: {"0": 1.09, "1": 1.11, "2": 0.5}[name])
    fast: Any = accelerate(_linear(6, 7, 8, 9), torch.randn(2, 6))
    assert kinds_of(fast) == {"1": SparseLinear}
    reasons = {layer.name: (layer.runs_as, layer.reason) for layer in fast.acceleration.layers}
    assert reasons == {
        "0": ("dense", "sparse is only 1.09 times as fast"),
        "1": ("sparse", ""),
        "2": ("dense", "sparse is only 0.50 times as fast"),
    }


def test_the_fastest_kind_wins(set_speeds):
    set_speeds(lambda name, kind: {"cropped": 3.0, "sparse": 2.0}[kind])
    fast: Any = accelerate(prune(make_images()), torch.randn(2, 3, 8, 8))
    kinds = {layer.name: layer.runs_as for layer in fast.acceleration.layers}
    assert kinds == {"0": "sparse", "3": "sparse", "5": "cropped", "6": "cropped", "8": "sparse"}
    assert isinstance(fast[5].product, nn.Linear)


def test_layers_are_given_back_until_the_whole_network_is_faster(set_speeds):
    speeds = {"0": 1.2, "1": 1.6, "2": 4.0}
    for networks, left in (((1.0,), 3), ((0.9, 1.1), 2), ((0.9, 0.9, 1.0), 1), ((0.9, 0.9, 0.9), 0)):
        set_speeds(lambda name, kind: speeds[name], networks)
        model = _linear(6, 7, 8, 9)
        fast: Any = accelerate(model, torch.randn(2, 6))
        assert len(kinds_of(fast)) == left == len(fast.acceleration.converted)
        if not left:
            assert fast.state_dict().keys() == model.state_dict().keys()
            assert "No layer was converted" in str(fast.acceleration)
            assert "did not make the whole network faster" in fast.acceleration.layers[2].reason


def test_the_report_names_every_layer(set_speeds):
    set_speeds(_fast)
    model: Any = prune(make_images())
    nn.init.normal_(model[0].weight)  # no zeros
    text = str(accelerate(model, torch.randn(2, 3, 8, 8)).acceleration)
    lines = text.splitlines()
    assert [line.split()[0] for line in lines[2:7]] == ["0", "3", "5", "6", "8"]
    assert "nothing that could replace it is likely to be faster" in lines[2]
    assert "3.00 times as fast" in lines[3]
    assert "4 of 5 layers were converted. For inputs of [2, 3, 8, 8]" in lines[-1]
    assert "2.00 times as fast" in lines[-1]


class Uses(nn.Module):
    """Uses a weight outside its layer, shares another, and leaves a third alone."""

    def __init__(self):
        super().__init__()
        self.outside, self.first, self.second, self.never, self.ours = (nn.Linear(6, 6) for _ in range(5))
        self.second.weight = self.first.weight
        self.again = self.once = nn.Linear(6, 6)
        self.computed = parametrizations.weight_norm(nn.Linear(6, 6))
        self.hooked = nn.Linear(6, 6)
        self.hooked.register_forward_hook(lambda layer, args, output: output + 1)
        self.own = _Doubles(6, 6)

    def forward(self, x):
        x = F.linear(self.outside(x).to(self.ours.weight.dtype), self.outside.weight)
        for layer in (self.first, self.second, self.once, self.again, self.computed, self.hooked, self.own, self.ours):
            x = layer(x)
        return x


class _Doubles(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


def test_layers_that_cannot_be_replaced_stay_and_are_explained(set_speeds):
    set_speeds(_fast)
    model: Any = prune(Uses(), 0.6)
    nn.init.ones_(model.computed.parametrizations.weight.original1)  # a norm of zero cannot be divided by
    example = torch.randn(3, 6)
    fast: Any = accelerate(model, example)
    assert kinds_of(fast) == {"ours": SparseLinear}
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))
    assert fast.second.weight is fast.first.weight
    assert fast.again is fast.once
    reasons = {layer.name: layer.reason for layer in fast.acceleration.layers}
    for name, reason in {
        "outside": "also used outside",
        "first": "shares its weight",
        "second": "shares its weight",
        "never": "was not called",
        "again": "shares its weight",
        "computed": "its class is",
        "hooked": "has hooks",
        "own": "._Doubles",
        "ours": "",
    }.items():
        assert reason in reasons[name], name
        assert bool(reason) == bool(reasons[name])


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 5).double(), lambda: nn.Conv2d(4, 4, 1, groups=2)])
def test_other_weights_stay_dense(set_speeds, make):
    set_speeds(_fast)
    model = prune(make())
    example = torch.randn(2, 6).double() if isinstance(model, nn.Linear) else torch.randn(2, 4, 3, 3)
    fast: Any = accelerate(model, example)
    assert type(fast) is type(model)


class Reads(nn.Module):
    """Reads attributes of its layers, besides calling them."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 6, 1)
        self.attention = nn.MultiheadAttention(6, 2, batch_first=True)
        self.mixed = nn.Linear(6, 6)
        self.inner = nn.Sequential(nn.Linear(6, 6))
        self.head = nn.Linear(6, 2)

    def forward(self, images):
        x = self.patch(images.to(self.patch.weight.dtype)).flatten(2).transpose(1, 2)
        x = self.attention(x, x, x)[0] / self.attention.head_dim
        x = self.mixed(x) + torch.stack([self.mixed.weight]).mean()
        return self.head(self.inner(x.to(next(self.inner.parameters()).dtype)))


def test_layers_whose_attributes_are_read_stay(set_speeds):
    set_speeds(_fast)
    model, example = prune(Reads()), torch.randn(2, 3, 3, 3)
    fast: Any = accelerate(model, example)
    assert kinds_of(fast) == {"inner.0": SparseLinear, "head": SparseLinear}
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))
    reasons = {layer.name: layer.reason for layer in fast.acceleration.layers}
    assert "reads attributes" in reasons["patch"]
    assert "reads attributes" in reasons["attention"]
    assert "also used outside" in reasons["mixed"]


def test_a_network_of_one_layer(set_speeds):
    set_speeds(_fast)
    model, example = prune(nn.Linear(6, 5)), torch.randn(3, 6)
    fast: Any = accelerate(model, example)
    assert type(fast) is SparseLinear
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))
    assert "(the network)" in str(fast.acceleration)


def test_a_layer_that_is_called_more_than_once(set_speeds):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.layer(F.avg_pool2d(self.layer(x), 4))

    set_speeds(_fast)
    model, example = prune(Twice()), torch.randn(1, 3, 8, 8)
    fast: Any = accelerate(model, example)
    assert kinds_of(fast) == {"layer": SparseConv2d}  # no matrix: one would be for maps of one size
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))


@pytest.mark.parametrize("options", [{}, {"batch_first": False}, {"bias": False}])
def test_projections_of_attentions(set_speeds, options):
    set_speeds(_fast)
    model = prune(Attends(**options), 0.6)
    examples = torch.randn(3, 5, 12), torch.randn(3, 5, 12)
    fast: Any = accelerate(model, examples)
    assert set(kinds_of(fast)) == {
        *(f"own.{name}" for name in ("projections.0", "out_proj")),
        *(f"cross.{name}" for name in ("projections.0", "projections.1", "projections.2", "out_proj")),
    }
    for count in (3, 1, 20):
        inputs = torch.randn(3, 5, 12)[:count], torch.randn(3, 5, 12)[:count]
        with torch.no_grad():
            torch.testing.assert_close(fast(*inputs), model(*inputs))


def test_attentions_stay_as_they_are_where_nothing_is_converted(set_speeds):
    set_speeds(lambda name, kind: 2.0 if name.startswith("layers.1") and name.endswith("linear1") else 0.5)
    layer = nn.TransformerEncoderLayer(12, 2, 16, batch_first=True)
    model, example = prune(nn.TransformerEncoder(layer, 2)), torch.randn(2, 5, 12)
    fast: Any = accelerate(model, example)
    assert set(kinds_of(fast)) == {"layers.1.linear1"}
    assert type(fast.layers[0].self_attn) is nn.MultiheadAttention
    assert type(fast.layers[1].self_attn) is not nn.MultiheadAttention
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))


@pytest.mark.parametrize("option", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_attentions_that_add_keys_stay_as_they_are(set_speeds, option):
    set_speeds(_fast)
    model, examples = prune(Attends(**option)), (torch.randn(3, 5, 12), torch.randn(3, 5, 12))
    fast: Any = accelerate(model, examples)
    assert not kinds_of(fast)
    assert {layer.reason for layer in fast.acceleration.layers if layer.name in ("own", "cross")} == {
        "it uses `add_bias_kv` or `add_zero_attn`"
    }


def test_masks_become_zeros(set_speeds):
    set_speeds(_fast)
    model = nn.Sequential(nn.Linear(6, 7), nn.Linear(7, 3))
    ours, _ = weight_layers(model)
    apply_masks(model, {ours.name: torch.rand(7, 6) < 0.3})
    torch_prune.random_unstructured(model[1], "weight", 0.7)
    example = torch.randn(2, 6)
    fast: Any = accelerate(model, example)
    assert kinds_of(fast) == {"0": SparseLinear, "1": SparseLinear}
    assert current_mask(ours) is not None
    with torch.no_grad():
        torch.testing.assert_close(fast(example), model(example))


def test_resnet18(set_speeds):
    set_speeds(_fast)
    model = prune(LitResNet18(), 0.9)
    fast: Any = accelerate(model, torch.randn(1, 3, 32, 32))
    kinds = kinds_of(fast)
    assert kinds["backbone.conv1"] is SparseConv2d
    assert kinds["backbone.layer4.1.conv2"] is ConvolutionMatrix
    assert kinds["head.2"] is SparseLinear
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-3, atol=1e-4)
    with pytest.raises(InputError, match="example_input"):
        fast(torch.randn(1, 3, 64, 64))


def test_arguments_by_name(set_speeds):
    set_speeds(_fast)
    model = prune(Attends())
    examples = {"second": torch.randn(1, 4, 12), "first": torch.randn(1, 3, 12)}
    fast: Any = accelerate(model, examples)
    assert "[1, 4, 12] and [1, 3, 12]" in fast.acceleration.summary


class Noisy(nn.Linear):
    def forward(self, x):
        return super().forward(x) + torch.rand(())


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (nn.Linear(3, 3), torch.randn(2, 4), "`example_input` that Linear accepts"),
        (nn.Linear(3, 3), "text", "`example_input` that Linear accepts"),
        (nn.Identity(), "text", "to return tensors"),
    ],
)
def test_what_cannot_be_run_is_refused(model, example, message):
    with pytest.raises(InputError, match=message):
        accelerate(model, example)
    with pytest.raises(InputError, match="`rounds`"):
        accelerate(model, example, rounds=0)


def test_networks_whose_outputs_change_are_refused():
    with pytest.raises(UnfinishedError, match="called twice"):
        accelerate(Noisy(3, 3), torch.randn(2, 3))


def test_outputs_may_be_infinite_or_nan(set_speeds):
    class Divides(nn.Linear):
        def forward(self, x):
            return super().forward(x)[:, :1] / torch.tensor([0.0, 1.0]) / torch.tensor([0.0, 1.0]), x * torch.nan

    set_speeds(_fast)
    model = nn.Sequential(prune(nn.Linear(3, 3)), Divides(3, 3))
    assert kinds_of(accelerate(model, torch.randn(2, 3))) == {"0": SparseLinear}


def test_converted_networks_that_compute_something_else_are_refused(set_speeds, monkeypatch):
    set_speeds(_fast)
    monkeypatch.setattr(SparseLinear, "forward", lambda self, input: F.linear(input, self.weight.to_dense()) + 1)
    with pytest.raises(UnfinishedError, match="differ by"):
        accelerate(_linear(4, 3), torch.randn(2, 4))
    accelerate(_linear(4, 3), torch.randn(2, 4), tolerance=10)


def test_the_tolerance_counts_as_it_is_given(set_speeds, monkeypatch):
    set_speeds(_fast)
    monkeypatch.setattr(
        SparseLinear, "forward", lambda self, input: F.linear(input, self.weight.to_dense(), self.bias) + 5e-5
    )
    accelerate(_linear(4, 3), torch.randn(2, 4))
    with pytest.raises(UnfinishedError, match="at most 0 is allowed"):
        accelerate(_linear(4, 3), torch.randn(2, 4), tolerance=0)
    for wrong in (-1, float("nan")):
        with pytest.raises(InputError, match="`tolerance` of at least 0"):
            accelerate(_linear(4, 3), torch.randn(2, 4), tolerance=wrong)


def test_accelerated_networks_refuse_training(set_speeds):
    set_speeds(_fast)
    fast: Any = accelerate(_linear(4, 3), torch.randn(2, 4))
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    with pytest.raises(InputError, match="cannot be trained"):
        fast.train()
    with pytest.raises(InputError, match="computes no gradients"):
        fast(torch.randn(2, 4, requires_grad=True))
