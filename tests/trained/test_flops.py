"""FLOPs of layers, compared with counts by hand and with torch's counter for whole networks."""

import re
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v3_small, resnet18

from lit_prune.errors import InputError
from lit_prune.functional import apply_masks
from lit_prune.trained.flops import LayerFlops, count_flops, input_shape


@pytest.mark.parametrize("build", [resnet18, mobilenet_v3_small])
def test_whole_networks_agree_with_the_counter_of_torch(build):
    model = build().eval()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.01)  # among millions of random weights, one may be zero
    with FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 3, 64, 64))
    counts = count_flops(model, 64)
    assert sum(layer.nominal for layer in counts.values()) == counter.get_total_flops()
    theirs = {name.partition(".")[2]: sum(ops.values()) for name, ops in counter.get_flop_counts().items()}
    assert {name: layer.nominal for name, layer in counts.items()} == {name: theirs[name] for name in counts}
    assert all(layer.nonzero == layer.nominal for layer in counts.values())


@pytest.mark.parametrize(
    ("layer", "shape", "positions"),
    [
        (nn.Linear(4, 3), (4,), 1),
        (nn.Linear(4, 3), (7, 4), 7),
        (nn.Conv1d(4, 6, 3, stride=2, padding=1), (4, 9), 5),
        (nn.Conv2d(4, 6, 3, groups=2), (4, 8, 7), 6 * 5),
        (nn.Conv2d(4, 6, (1, 3), dilation=2, padding="same"), (4, 8, 7), 8 * 7),
        (nn.Conv3d(4, 2, 2), (4, 3, 3, 3), 8),
        (nn.ConvTranspose1d(4, 6, 3, stride=2), (4, 5), 5),
        (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 4), 20),
        (nn.ConvTranspose3d(4, 6, 2), (4, 2, 2, 2), 8),
    ],
)
def test_each_weight_counts_once_per_position(layer, shape, positions):
    assert count_flops(layer, shape)[""] == LayerFlops(*[2 * positions * layer.weight.numel()] * 2)


def test_zero_weights_are_not_counted_as_nonzero_flops():
    model: Any = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4 * 36, 2))
    mask = torch.ones(4, 3, 3, 3, dtype=torch.bool)
    mask[0] = False
    apply_masks(model, {"0": mask})
    with torch.no_grad():
        model[2].weight[:, :10] = 0
    assert count_flops(model, 6) == {
        "0": LayerFlops(2 * 36 * 108, 2 * 36 * 81),
        "2": LayerFlops(2 * 288, 2 * 268),
    }


def test_flops_of_an_attention_are_not_known():
    model = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    found = count_flops(model, (5, 8))
    assert found == {name: LayerFlops(5 * 2 * 8 * 16, 5 * 2 * 8 * 16) for name in ("linear1", "linear2")}


def test_a_layer_counts_each_time_it_is_called():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.idle = nn.Linear(3, 3), nn.Linear(3, 3)
            self.tied = nn.Linear(3, 3)
            self.tied.weight = self.first.weight

        def forward(self, x):
            return self.first(input=self.first(self.tied(x)))

    assert count_flops(Twice(), (3,)) == {"first": LayerFlops(54, 54), "idle": LayerFlops(0, 0)}


def test_a_parametrised_weight_counts_by_its_computed_value():
    layer = torch.nn.utils.parametrizations.weight_norm(nn.Linear(4, 3))
    assert count_flops(layer, (4,)) == {"": LayerFlops(24, 24)}


@pytest.mark.parametrize("size", [8, 0])
def test_the_model_is_not_changed(size):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(), nn.Sequential(nn.ReLU()))
    model[3].eval()
    modes = [module.training for module in model.modules()]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    chance = torch.get_rng_state()
    if size:
        count_flops(model, size)
    else:
        with pytest.raises(InputError):
            count_flops(model, (3, 2, 2))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert torch.equal(chance, torch.get_rng_state())
    assert model[0].weight.grad is None


def test_the_input_has_the_dtype_of_the_model():
    model = nn.Sequential(nn.Conv2d(1, 1, 1)).to(torch.float64)
    assert count_flops(model, 2)["0"].nominal == 8
    assert model[0].weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("model", "size", "shape"),
    [
        (nn.Conv2d(6, 2, 1, groups=2), 5, (6, 5, 5)),
        (nn.Linear(3, 1), (3,), (3,)),
        (nn.Conv2d(1, 1, 1), [1, 2, 3], (1, 2, 3)),
    ],
)
def test_a_number_means_a_square_image(model, size, shape):
    assert input_shape(model, size) == shape


@pytest.mark.parametrize(
    ("model", "size", "found"),
    [
        (nn.Conv2d(3, 1, 1), 0, "0"),
        (nn.Conv2d(3, 1, 1), True, "True"),
        (nn.Conv2d(3, 1, 1), (), "()"),
        (nn.Conv2d(3, 1, 1), (3, -1, 2), "(3, -1, 2)"),
        (nn.Conv2d(3, 1, 1), (3, 2.5, 2), "(3, 2.5, 2)"),
    ],
)
def test_bad_sizes_are_refused(model, size, found):
    with pytest.raises(InputError, match=rf"positive integers, but got {re.escape(found)}\. HINT: 32 means images"):
        count_flops(model, size)


@pytest.mark.parametrize("model", [nn.Linear(4, 2), nn.Conv1d(4, 2, 1), nn.Sequential(nn.ReLU())])
def test_one_number_is_refused_if_the_number_of_channels_is_unknown(model):
    with pytest.raises(InputError, match=r"`input_size` to be the whole shape of one input, .* but got 32\. HINT: "):
        count_flops(model, 32)


def test_a_size_that_the_model_does_not_accept_is_refused():
    with pytest.raises(InputError, match="`input_size` 2 to be one that Conv2d accepts, but got RuntimeError"):
        count_flops(nn.Conv2d(1, 1, 3), 2)


def test_lazy_weights_are_refused_and_stay_lazy():
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.LazyConv2d(2, 1))
    with pytest.raises(InputError, match=r"but got a lazy one\. HINT: run one batch through the model first"):
        count_flops(model, 4)
    assert isinstance(model[1], nn.LazyConv2d)


@pytest.mark.parametrize(("nominal", "nonzero"), [(1, 2), (1, -1)])
def test_impossible_counts_are_refused(nominal, nonzero):
    with pytest.raises(InputError, match=r"^Expected 0 <= nonzero <= nominal FLOPs, but got "):
        LayerFlops(nominal, nonzero)
