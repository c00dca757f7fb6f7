"""Channels that layers share: they are pruned in all layers together, and can be removed without changing outputs."""

import copy
import math
import sys
from typing import Any

import pytest
import torch
from torch import nn

from lit_prune import LitResNet18
from lit_prune.errors import InputError
from lit_prune.functional import allocation as allocations
from lit_prune.functional import apply_masks, weight_layers
from lit_prune.functional.channels import couple_channels
from lit_prune.functional.pruning import compute_masks
from lit_prune.trained.shrink import remove_channels


class Residual(nn.Module):
    """A small network with a residual sum, a depthwise convolution, and features of several pixels.

    If `entangled`, it concatenates the sum and a layer that reads it, which torch-pruning 1.6.1 gets wrong.
    """

    def __init__(self, activation: nn.Module | None = None, entangled: bool = False):
        super().__init__()
        self.entangled = entangled
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise, self.inner = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.point = nn.Conv2d(8, 8, 1)
        self.side = nn.Conv2d(8, 4, 1, bias=False)
        self.activation = activation or nn.ReLU()
        self.hidden, self.head = nn.Linear((12 if entangled else 4) * 4, 7), nn.Linear(7, 5)

    def forward(self, images):
        stream = self.norm(self.stem(images)).relu()
        stream = stream + self.point(self.inner(self.depthwise(stream)).relu())
        side = self.side(stream).relu()
        side = torch.cat([stream, side], 1) if self.entangled else side
        features = nn.functional.adaptive_avg_pool2d(side, 2).flatten(1)
        return self.head(self.activation(self.hidden(features)))


def trained(model: nn.Module) -> nn.Module:
    """Give norms and biases values as after training."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                assert tensor is not None
                tensor.uniform_(0.5, 1.5)
    return model


def prune(model: nn.Module, amount: float, example, uniform: bool = False, most: float | None = None):
    coupled = couple_channels(model, example)
    weights = [ref for ref in weight_layers(model) if ref.name in coupled.weights]
    allocation = allocations.uniform if uniform else None  # a function, beside which a limit has no effect
    masks = compute_masks(weights, amount, structure=coupled, allocation=allocation, max_layer_sparsity=most)
    apply_masks(model, masks)
    return coupled, masks


def networks():
    from torchvision.models import mobilenet_v2, mobilenet_v3_small

    yield pytest.param(Residual, ["head"], id="residual")
    yield pytest.param(LitResNet18, ["head.2"], id="resnet")
    yield pytest.param(lambda: LitResNet18(stem="cifar", batch_norm="frozen"), ["head.2"], id="frozen")
    yield pytest.param(mobilenet_v2, ["classifier.1"], id="mobilenet_v2")
    yield pytest.param(mobilenet_v3_small, ["classifier.3"], id="mobilenet_v3")


@pytest.mark.parametrize(("make", "keep"), [*networks()])
@pytest.mark.parametrize("uniform", [False, True])
@pytest.mark.gate
def test_pruned_channels_are_removed_without_changing_outputs(make, keep, uniform):
    model = trained(make()).eval()
    coupled, masks = prune(
        model, 0.5, torch.zeros(2, 3, 32, 32), uniform, 0.7
    )  # a layer with one channel may give zeros alone
    assert not set(keep) & set(masks)
    images = torch.randn(4, 3, 32, 32)
    smaller = remove_channels(model, None, 32, keep)
    with torch.no_grad():
        before, after = model(images), smaller(images)
    assert before.std() > 0
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    assert torch.equal(before.argmax(1), after.argmax(1))
    # exactly the masked rows have gone, from all parameters
    left = dict(smaller.named_parameters())
    for name, mask in masks.items():
        rows = int(mask.flatten(1).any(1).sum()) if mask.dim() > 1 else int(mask.sum())
        parameter = left[name] if name in left else left[f"{name}.weight"]
        assert len(parameter) == rows, name
    numbers = torch.bincount(coupled.groups)
    if uniform:
        sizes = [len(left[f"{root}.weight"]) for root in coupled.roots]
        assert sizes == [int(number) - min(int(number) - 1, round(number / 2)) for number in numbers.tolist()]


@pytest.mark.parametrize("make", [Residual, LitResNet18])
def test_in_training_mode_pruned_channels_have_no_effect_and_no_gradient_reaches_their_readers(make):
    torch.manual_seed(int(torch.randint(1000, (1,))))
    model = trained(make()).train()
    prune(model, 0.4, torch.zeros(2, 3, 32, 32))
    images = torch.randn(8, 3, 32, 32)
    keep = ["head"] if make is Residual else ["head.2"]
    smaller = remove_channels(model, None, 32, keep).train()
    torch.testing.assert_close(smaller(images), model(images), rtol=1e-3, atol=1e-3)


def test_the_lowest_mean_over_all_coupled_rows_goes_first():
    model = Residual()
    coupled = couple_channels(model, torch.zeros(2, 3, 32, 32))
    weights = [ref for ref in weight_layers(model) if ref.name in coupled.weights]
    masks = compute_masks(weights, 0.3, structure=coupled)
    sums, counts = torch.zeros(2, len(coupled.groups))
    kept = torch.zeros(len(coupled.groups), dtype=torch.bool)
    for ref in weights:
        for row, channel in enumerate(coupled.rows[ref.name].tolist()):
            sums[channel] += ref.tensor[row].abs().sum().item()
            counts[channel] += ref.tensor[row].numel()
            kept[channel] = masks[ref.name][row].any()
            assert masks[ref.name][row].all() == masks[ref.name][row].any()
    means = sums / counts
    total = sum(ref.tensor.numel() for ref in weights)
    pruned = counts[~kept].sum()
    assert means[~kept].max() < means[kept].min() or torch.bincount(coupled.groups[kept]).min() == 1
    assert 0 < pruned <= round(0.3 * total)
    # stem, depthwise and pointwise convolutions share channels
    assert torch.equal(coupled.rows["stem"], coupled.rows["point"])
    assert torch.equal(coupled.rows["stem"], coupled.rows["norm.bias"])


def test_more_is_pruned_on_top_and_every_group_keeps_a_channel():
    model = Residual()
    _, first = prune(model, 0.3, torch.zeros(2, 3, 32, 32))
    coupled, second = prune(model, 0.999, torch.zeros(2, 3, 32, 32))
    assert all(not (second[name] & ~first[name]).any() for name in first)
    kept = torch.zeros(len(coupled.groups), dtype=torch.bool)
    for name, mask in second.items():
        kept[coupled.rows[name][mask.flatten(1).any(1) if mask.dim() > 1 else mask]] = True
    assert torch.bincount(coupled.groups[kept], minlength=len(coupled.roots)).tolist() == [1] * len(coupled.roots)


def test_channels_that_do_not_stay_zero_are_left_dense():
    torch.manual_seed(0)
    for activation, coupled in ((nn.ReLU(), True), (nn.Sigmoid(), False), (nn.Tanh(), True), (nn.LayerNorm(7), False)):
        found = couple_channels(Residual(activation), torch.zeros(2, 3, 32, 32))
        assert ("hidden" in found.weights) == coupled
        assert "stem" in found.weights


def test_a_group_is_pruned_only_if_all_its_layers_are_chosen():
    example = torch.zeros(2, 3, 32, 32)
    found = couple_channels(Residual(), example, ["stem", "side", "hidden"])
    assert set(found.weights) == {"side", "hidden"}


def test_the_model_is_left_as_it_was():
    model: Any = trained(Residual())
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    model.stem.weight.requires_grad_(False)
    couple_channels(model, torch.zeros(2, 3, 32, 32))
    assert model.training
    assert [model.stem.weight.requires_grad, model.head.weight.requires_grad] == [False, True]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(state, torch.get_rng_state())


def test_what_cannot_be_done_is_refused(monkeypatch):
    example = torch.zeros(2, 3, 32, 32)
    with pytest.raises(
        InputError, match=r"channels torch-pruning can follow, but got .* HINT: set `self.example_input"
    ):
        couple_channels(Residual(), torch.zeros(2, 7))
    with pytest.raises(InputError, match="layers whose channels can be removed, but got none in Linear"):
        couple_channels(nn.Linear(3, 2), torch.zeros(2, 3))
    with pytest.raises(InputError, match="channels that are zero in all layers that compute them, but got none"):
        remove_channels(Residual(), None, 32, ["head"])
    with pytest.raises(InputError, match="from which torch-pruning removes channels exactly"):
        couple_channels(Residual(entangled=True), example)
    assert couple_channels(Residual(entangled=True), example, ["hidden"]).weights == ["hidden"]
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(InputError, match=r"Install it with `pip install 'lit-prune\[structured\]'`"):
        couple_channels(Residual(), example)


def test_rounding_keeps_some_zero_channels():
    model = Residual()
    prune(model, 0.5, torch.zeros(2, 3, 32, 32), uniform=True)
    smaller = remove_channels(model, None, 32, ["head"], 3)
    assert [len(smaller.get_parameter(f"{name}.weight")) for name in ("stem", "side", "hidden")] == [6, 3, 3]
    images = torch.randn(4, 3, 32, 32)
    torch.testing.assert_close(smaller(images), model.eval()(images), rtol=1e-4, atol=1e-5)
    assert math.isfinite(float(smaller(images).detach().sum()))
