"""A plain copy computes the same with classes of torch alone."""

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from lit_prune.functional import apply_masks, weight_layers
from lit_prune.functional.plain import plain_copy
from lit_prune.models.cropped_conv import CroppedConv2d, crop_convolutions
from lit_prune.models.resnet18 import LitResNet18


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def masked():
    """A `LitResNet18` with non-trivial batch norm statistics and half of its weights masked."""
    torch.manual_seed(1)
    model = LitResNet18(batch_norm="frozen").eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.get_buffer("running_mean").uniform_(-0.1, 0.1)
            layer.get_buffer("running_var").uniform_(0.5, 1.5)
    apply_masks(model, {ref.name: torch.rand_like(ref.tensor) > 0.5 for ref in weight_layers(model)})
    return model


@pytest.fixture(scope="module")
def copied(masked):
    return plain_copy(masked)


def test_outputs_are_the_same(masked, copied, images):
    with torch.no_grad():
        torch.testing.assert_close(copied(images), masked(images), rtol=1e-5, atol=1e-5)


def test_the_copy_has_classes_of_torch_and_the_same_names(masked, copied):
    homes = {type(module).__module__.partition(".")[0] for module in copied.modules()}
    assert homes == {"torch", "torchvision"}
    assert any(type(module) is nn.Conv2d for module in copied.modules())
    state = masked.state_dict()
    assert list(copied.state_dict()) == list(state)
    assert all(torch.equal(value, state[name]) for name, value in copied.state_dict().items())


def test_masks_become_zeros(copied):
    assert not prune.is_pruned(copied)
    for ref in weight_layers(copied):
        assert 0.4 < float((ref.tensor == 0).float().mean()) < 0.6
    assert not copied.training


def test_the_model_is_not_changed(masked):
    before = {name: value.clone() for name, value in masked.state_dict().items()}
    with torch.no_grad():
        for parameter in plain_copy(masked).parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[name]) for name, value in masked.state_dict().items())
    assert prune.is_pruned(masked)
    assert any(isinstance(module, CroppedConv2d) for module in masked.modules())


def test_masks_of_torch_become_zeros_too():
    model = nn.Sequential(nn.Linear(4, 3))
    prune.l1_unstructured(model[0], "weight", amount=6)
    x = torch.randn(2, 4)
    wanted = model(x)  # from now on the layer holds a product that `deepcopy` refuses
    copied = plain_copy(model)
    assert torch.equal(copied(x), wanted)
    assert sorted(copied.state_dict()) == ["0.bias", "0.weight"]
    assert int((copied.get_parameter("0.weight") == 0).sum()) == 6


def test_classes_without_a_plain_form_are_kept():
    class Mine(nn.Sequential):
        pass

    model = Mine(nn.Conv2d(1, 1, 3))
    crop_convolutions(model)
    copied = plain_copy(model)
    assert [type(module) for module in copied.modules()] == [Mine, nn.Conv2d]


def test_a_plain_form_is_not_inherited():
    """A subclass may compute something else, so its class is kept."""

    class Doubled(CroppedConv2d):
        def forward(self, input):
            return 2 * super().forward(input)

    class Own(LitResNet18):
        pass

    assert type(plain_copy(Doubled(1, 1, 3))) is Doubled
    assert type(plain_copy(Own())) is Own
