"""Cropped networks give the same outputs with fewer weights."""

import copy
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from lit_prune.errors import InputError
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.live_taps import find_live_taps
from lit_prune.functional.plain import plain_copy
from lit_prune.models.resnet18 import LitResNet18

# size, kernel, stride, padding, dilation
shapes = st.tuples(st.integers(1, 9), st.integers(1, 5), st.integers(1, 3), st.integers(0, 4), st.integers(1, 2))


def reads(size, kernel, stride, padding, dilation):
    """Taps that read a pixel for an output, by definition."""
    outputs = range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    return {t for t in range(kernel) for out in outputs if 0 <= out * stride - padding + t * dilation < size}


def same(model, smaller, *shape):
    images = torch.randn(2, *shape, dtype=next(model.parameters()).dtype)
    with torch.no_grad():
        torch.testing.assert_close(smaller(images), plain_copy(model)(images))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return LitResNet18().double().eval()


@pytest.fixture(scope="module")
def smaller(model):
    return crop_kernels(model, 32)


@given(shapes, shapes)
@settings(max_examples=150, deadline=None)
def test_any_convolution_gives_the_same_outputs(rows, columns):
    kinds = [rows, columns]
    # the padded input must not be smaller than the kernel
    assume(all(size + 2 * padding > dilation * (kernel - 1) for size, kernel, _, padding, dilation in kinds))
    size, kernel, stride, padding, dilation = zip(*kinds, strict=True)
    model = nn.Conv2d(2, 4, kernel, stride, padding, dilation, groups=2).double()
    smaller = crop_kernels(model, size, channels=2)
    same(model, smaller, 2, *size)
    for dimension, shape in enumerate(kinds):
        kept = find_live_taps([shape[0]], *shape[1:])
        assert reads(*shape) <= set(range(kept.start, kept.stop))
        assert smaller.get_parameter("weight").shape[2 + dimension] == kept.stop - kept.start


def test_a_layer_called_at_two_sizes_keeps_the_taps_of_both():
    conv = nn.Conv2d(2, 2, 5, padding=2)
    model = nn.Sequential(conv, nn.MaxPool2d(2), conv)
    smaller = crop_kernels(model, 2, channels=2)
    same(model, smaller, 2, 2, 2)
    assert smaller.state_dict()["0.weight"].shape[2:] == (3, 3)


def test_a_resnet_gives_the_same_outputs_with_38_percent_of_its_weights(model, smaller):
    same(model, smaller, 3, 32, 32)
    convolutions = [m for m in smaller.modules() if isinstance(m, nn.Conv2d)]
    assert {type(m) for m in convolutions} == {nn.Conv2d}
    weights = sum(m.weight.numel() for m in smaller.modules() if isinstance(m, nn.Conv2d | nn.Linear))
    all_weights = sum(m.weight.numel() for m in plain_copy(model).modules() if isinstance(m, nn.Conv2d | nn.Linear))
    assert round(1 - weights / all_weights, 3) == 0.619


def test_exactly_the_taps_without_gradients_are_removed(model, smaller):
    trained = copy.deepcopy(model).requires_grad_()
    trained(torch.randn(4, 3, 32, 32, dtype=torch.float64)).square().sum().backward()
    for name, weight in trained.backbone.named_parameters():
        if weight.dim() == 4:
            with_gradient = int((weight.grad.abs().amax((0, 1)) > 0).sum())
            assert with_gradient == smaller.get_parameter(f"backbone.{name}")[0, 0].numel(), name


def test_outputs_differ_at_another_size(model, smaller):
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        assert (smaller(images) - model(images)).abs().max() > 1e-3


def test_nothing_is_removed_at_a_large_size(model):
    shapes = {name: value.shape for name, value in crop_kernels(model, 224).state_dict().items()}
    assert shapes == {name: value.shape for name, value in model.state_dict().items()}


def test_the_model_is_not_changed(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    smaller = crop_kernels(model, 32)
    assert list(smaller.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(module._forward_pre_hooks for module in smaller.modules())


def test_kernels_are_copies_not_views(smaller):
    weight = smaller.get_parameter("backbone.layer4.1.conv2.weight")
    assert weight.untyped_storage().nbytes() == weight.numel() * weight.element_size()


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(1, 1, 3, padding=1), nn.Conv2d(1, 1, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x):
        return self.b(self.a(x))


class Unusual(nn.Conv2d):
    pass


@pytest.mark.parametrize(
    "model",
    [
        Tied(),
        Unusual(1, 1, 3, padding=1),
        nn.Conv2d(1, 1, 3, padding="same"),
        nn.Conv2d(1, 1, 3, padding=1, padding_mode="replicate"),
    ],
    ids=["tied", "subclass", "same", "replicate"],
)
def test_layers_that_might_not_be_exact_stay_whole(model):
    smaller = crop_kernels(model, 1, channels=1)
    same(model, smaller, 1, 1, 1)
    assert {w.shape for w in smaller.state_dict().values()} == {w.shape for w in model.state_dict().values()}


def test_a_layer_called_by_keyword_is_cropped():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, images):
            assert images.shape[-1] == 1, "only single pixels"
            return self.layer(input=images)

    model, images = Named(), torch.randn(2, 3, 1, 1)
    cropped: Any = crop_kernels(model, 1)
    assert cropped.layer.kernel_size == (1, 1)
    torch.testing.assert_close(cropped(images), model(images))
    with pytest.raises(InputError, match=r"a network that takes images of 3x2x2, but got only single pixels"):
        crop_kernels(model, 2)


def test_a_size_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match=r"a network that takes images of 3x1x1, but got .*Kernel size"):
        crop_kernels(nn.Conv2d(3, 1, 5), 1)
