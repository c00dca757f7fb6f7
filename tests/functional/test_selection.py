"""Weights and modules chosen by name."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lit_prune.errors import InputError
from lit_prune.functional import weight_layers


def names(model: nn.Module, **arguments) -> list[str]:
    return [ref.name for ref in weight_layers(model, **arguments)]


@pytest.fixture
def model() -> nn.Module:
    backbone = nn.Sequential()
    backbone.add_module("stem", nn.Conv2d(3, 4, 3))
    backbone.add_module("bn", nn.BatchNorm2d(4))
    backbone.add_module("layer1", nn.Sequential(nn.Conv2d(4, 4, 3), nn.GroupNorm(2, 4), nn.Conv2d(4, 4, 3)))
    backbone.add_module("layer10", nn.Sequential(nn.ConvTranspose2d(4, 4, 3)))
    return nn.ModuleDict({"backbone": backbone, "head": nn.Linear(4, 2)})


ALL = ["backbone.stem", "backbone.layer1.0", "backbone.layer1.2", "backbone.layer10.0", "head"]


def test_every_convolution_and_linear_layer_is_chosen_in_order(model):
    refs = weight_layers(model)
    assert [ref.name for ref in refs] == ALL
    for ref in refs:
        assert ref.module is model.get_submodule(ref.name)
        assert ref.parameter == "weight"
        assert ref.tensor is ref.module.weight
    assert len({*refs, *weight_layers(model)}) == len(refs)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv1d(2, 2, 1),
        nn.Conv3d(2, 2, 1),
        nn.ConvTranspose1d(2, 2, 1),
        nn.ConvTranspose3d(2, 2, 1),
        type("Special", (nn.Linear,), {})(2, 2),
    ],
)
def test_kinds_of_layers_that_are_chosen(layer):
    assert names(nn.Sequential(layer)) == ["0"]
    assert names(layer) == [""]


def test_kinds_of_layers_that_are_not_chosen():
    others = [nn.Embedding(2, 2), nn.BatchNorm1d(2), nn.LayerNorm(2), nn.PReLU(), nn.GRU(2, 2), nn.Bilinear(2, 2, 2)]
    assert names(nn.Sequential(*others, nn.Linear(2, 2))) == [str(len(others))]


def test_only_the_output_projection_of_attention_is_chosen():
    layer = nn.TransformerEncoderLayer(8, nhead=2)
    assert names(layer) == ["self_attn.out_proj", "linear1", "linear2"]


@pytest.mark.parametrize(
    ("arguments", "chosen"),
    [
        ({"layers": "backbone.layer1"}, ALL[1:3]),
        ({"layers": "backbone.layer1.*"}, ALL[1:3]),
        ({"layers": ["head", "backbone.layer1.2"]}, [ALL[2], ALL[4]]),
        ({"layers": "*"}, ALL),
        ({"layers": "*.0"}, [ALL[1], ALL[3]]),
        ({"exclude": "backbone"}, ["head"]),
        ({"exclude": ["head", "*.bn"]}, ALL[:4]),
        ({"layers": "backbone", "exclude": "backbone.layer1?"}, ALL[:3]),
    ],
)
def test_globs(model, arguments, chosen):
    assert names(model, **arguments) == chosen


def test_tied_weights_count_once_also_while_masked():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3), nn.Linear(3, 1))
    model[2].weight = model[0].weight
    for _ in range(2):
        assert names(model) == ["0", "3"]
        assert names(model, layers="2") == ["0"]
        assert names(model, exclude="2") == ["3"]
        prune.identity(model[2], "weight")  # second round: one of the two is masked


def test_equal_values_are_not_tied():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model.load_state_dict({name: torch.ones_like(value) for name, value in model.state_dict().items()})
    assert names(model) == ["0", "1"]


def test_a_layer_tied_to_an_embedding_is_not_chosen():
    model = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 3), nn.Linear(3, 5))
    model[2].weight = model[0].weight
    assert names(model) == ["1"]


def test_a_module_is_found_under_each_of_its_names(model):
    model["encoder"] = model["backbone"]
    assert names(model) == ALL
    assert names(model, layers="encoder.layer1") == ALL[1:3]


def test_masked_layers_keep_their_names_and_parameters(model):
    kept = dict(model.named_parameters())
    layer = model.get_submodule("backbone.layer1.0")
    prune.random_unstructured(layer, "weight", amount=0.5)
    refs = weight_layers(model)
    assert [ref.name for ref in refs] == ALL
    assert all(ref.tensor is kept[f"{ref.name}.weight"] for ref in refs)


def test_names_that_contain_mask_are_ordinary_names():
    model = nn.Sequential()
    model.register_buffer("causal_mask", torch.ones(2))
    model.add_module("roi_mask_conv", nn.Conv2d(1, 1, 1))
    assert names(model) == ["roi_mask_conv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"layers": "backbon.layer1"},
            "`layers` to match a convolution or linear layer, but got `backbon.layer1`, which matches none. HINT: "
            "close matches are `backbone.layer1`, `backbone.layer10`, `backbone.layer1.2`.",
        ),
        ({"layers": ["head", "Head"]}, "but got `Head`, which matches none. HINT: close matches are `head`."),
        (
            {"layers": "backbone.bn"},
            "but got `backbone.bn`, which matches none. HINT: close matches are `backbone`, `backbone.stem`",
        ),
        (
            {"exclude": ["head", "x"]},
            "`exclude` to match a module, but got `x`, which matches none. HINT: names in this model are, for "
            "example, `backbone`, `backbone.stem`, `backbone.bn`.",
        ),
        ({"layers": ""}, "but got ``, which matches none. HINT: names in this model are, for example, `backbone`"),
        ({"layers": ["head", 3]}, "`layers` to be a glob or a list of globs, but got ['head', 3]"),
        ({"exclude": "*"}, "at least one convolution or linear layer to choose, but got none in ModuleDict"),
    ],
)
def test_bad_patterns_are_refused(model, arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        weight_layers(model, **arguments)


def test_lazy_layers_are_refused_by_name():
    model = nn.Sequential(nn.LazyLinear(2), nn.Linear(2, 2))
    with pytest.raises(InputError, match="values in layer `0`, but got a lazy one that has no shape yet"):
        weight_layers(model)
    assert names(model, exclude="0") == ["1"]


@pytest.mark.parametrize("parametrise", [parametrizations.orthogonal, parametrizations.weight_norm])
def test_parametrised_layers_are_refused_by_name(parametrise):
    model = nn.Sequential(parametrise(nn.Linear(2, 2)), nn.Linear(2, 2))
    with pytest.raises(InputError, match="layer `0` to store its weight, but got one that is computed from other"):
        weight_layers(model)
    assert names(model, exclude="0") == ["1"]
