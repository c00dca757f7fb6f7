"""Weights and modules chosen by name."""

import re

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from lit_prune.errors import InputError
from lit_prune.functional.selection import find_weight, passed_over, weight_layers, weight_names


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


class OwnLinear(nn.Module):
    """A layer as other libraries write them."""

    def __init__(self, name: str = "weight", shape: tuple[int, ...] = (3, 3)):
        super().__init__()
        self.register_parameter(name, nn.Parameter(torch.rand(shape)))


class OwnLayerNorm(OwnLinear):
    pass


class PositionEmbeddings(OwnLinear):
    pass


def test_layers_of_any_library_are_chosen():
    assert names(nn.Sequential(OwnLinear(), OwnLinear("relative_weight"), nn.Bilinear(2, 2, 2))) == [
        "0",
        "1.relative_weight",
        "2",
    ]
    assert names(nn.Sequential(nn.GRU(2, 2, num_layers=2))) == [
        "0.weight_ih_l0",
        "0.weight_hh_l0",
        "0.weight_ih_l1",
        "0.weight_hh_l1",
    ]
    assert names(nn.Sequential(nn.RNNCell(2, 2))) == ["0.weight_ih", "0.weight_hh"]
    layer = nn.TransformerEncoderLayer(8, nhead=2)
    assert names(layer) == ["self_attn.in_proj_weight", "self_attn.out_proj", "linear1", "linear2"]
    attention = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
    assert names(attention) == ["q_proj_weight", "k_proj_weight", "v_proj_weight", "out_proj"]


def test_norms_embeddings_vectors_and_other_names_are_not_chosen():
    others = [nn.Embedding(2, 2), nn.BatchNorm1d(2), nn.LayerNorm([2, 2]), nn.PReLU(), nn.EmbeddingBag(2, 2)]
    others += [OwnLayerNorm(), PositionEmbeddings(), OwnLinear("pos_embed", (1, 4, 8)), OwnLinear("weight", (3,))]
    others += [OwnLinear("cls_token"), OwnLinear("weights_scale")]
    model = nn.Sequential(*others, nn.Linear(2, 2))
    assert names(model) == [str(len(others))]
    norms_and_embeddings = ["0.weight", "2.weight", "2.bias", "4.weight", "5.weight", "6.weight"]
    assert list(passed_over(model)) == [*norms_and_embeddings, "7.pos_embed", "9.cls_token", "10.weights_scale"]


def test_parameters_are_chosen_by_name():
    model = nn.Sequential(OwnLinear("pos_embed"), nn.Linear(2, 2), nn.Embedding(2, 2), nn.LSTM(2, 2))
    assert names(model, parameters="*.pos_embed") == ["0.pos_embed"]
    assert names(model, parameters=["*.weight*"], exclude="3") == ["1", "2"]
    assert names(model, parameters="*.weight_hh*", layers="3") == ["3.weight_hh_l0"]
    assert names(model, parameters="1.bias") == ["1.bias"]
    with pytest.raises(InputError, match="`parameters` to match a parameter, but got `pos`, which matches none"):
        weight_layers(model, parameters="pos")
    with pytest.raises(InputError, match="but got `pos`, which matches none"):
        weight_layers(model, parameters=["*.pos_embed", "pos"])


def test_a_weight_is_found_by_the_name_it_is_given():
    layers = {"attention": nn.MultiheadAttention(8, 2), "lstm": nn.LSTM(2, 2), "own": OwnLinear("pos_weight")}
    model = nn.ModuleDict(layers | {"odd": nn.ModuleDict({"weight": nn.Linear(2, 2)})})
    for ref in weight_layers(model):
        found = find_weight(model, ref.name)
        assert found is not None
        assert found.tensor is ref.tensor
        assert found.parameter_name == ref.parameter_name
        assert model.get_parameter(ref.parameter_name) is ref.tensor
    assert find_weight(model, "attention") is None
    assert find_weight(model, "lstm.weight") is None
    whole = find_weight(nn.Linear(2, 2), "")
    assert whole is not None
    assert whole.parameter_name == "weight"


def integer(dtype):
    layer = nn.Linear(2, 2, bias=False)
    layer.weight = nn.Parameter(torch.ones(2, 2).to(dtype), requires_grad=False)
    return layer


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (lambda: integer(torch.int8), "int8"),
        (lambda: integer(torch.uint8), "uint8"),
        (lambda: integer(torch.complex64), "complex64"),
        (lambda: torch.jit.script(nn.Linear(2, 2)), "a `torch.jit.ScriptModule`"),
        (lambda: torch.ao.nn.quantized.dynamic.Linear(2, 2), "a packed Linear"),
        (lambda: nn.utils.spectral_norm(nn.Linear(2, 2)), "one that is computed from other parameters"),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(2, 2, 1)), "one that is computed"),
        (lambda: parametrize_attention(), "one that is computed from other parameters"),
    ],
)
@pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:torch.quantize_per:UserWarning"
)
def test_weights_without_values_of_their_own_are_refused_by_name(layer, kind):
    model = nn.Sequential(nn.Linear(2, 2), layer())
    with pytest.raises(InputError, match=rf"layer `1.*`.* but got {kind}.* HINT: .*`exclude`"):
        weight_layers(model)
    assert names(model, exclude="1") == ["0"]


def parametrize_attention():
    layer = nn.MultiheadAttention(4, 2)
    nn.utils.parametrize.register_parametrization(layer, "in_proj_weight", nn.Identity())
    return layer


def test_averages_are_not_chosen():
    net = nn.Linear(2, 2)
    model = nn.ModuleDict({"net": net, "ema": torch.optim.swa_utils.AveragedModel(net)})
    assert names(model) == ["net"]


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
            "`layers` to match a layer with a weight, but got `backbon.layer1`, which matches none. HINT: "
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
        ({"exclude": "*"}, "at least one layer with a weight to choose, but got none in ModuleDict"),
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


@pytest.mark.parametrize("argument", ["layers", "exclude"])
def test_single_weights_of_a_layer_are_chosen_by_parameters(argument):
    model = nn.ModuleDict({"lstm": nn.LSTM(3, 4), "head": nn.Linear(4, 2)})
    with pytest.raises(InputError, match="HINT: choose single weights of a layer with `parameters`"):
        weight_layers(model, **{argument: "lstm.weight_hh_l0"})
    assert names(model, parameters="lstm.weight_hh_l0") == ["lstm.weight_hh_l0"]


def test_a_layer_with_a_computed_weight_keeps_its_others():
    lstm = nn.LSTM(3, 4)
    parametrizations.spectral_norm(lstm, "weight_hh_l0")
    assert sorted(weight_names(lstm)) == ["weight_hh_l0", "weight_ih_l0"]
