"""Frozen parts of a model, and how they thaw."""

import pickle
import re
from collections.abc import Callable
from copy import deepcopy
from math import nan
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.ao.quantization import quantize_dynamic
from torch.nn.utils import parametrizations

from lit_prune.errors import InputError
from lit_prune.functional import (
    Frozen,
    ScaledUpdates,
    first_layers,
    freeze,
    modules_still_frozen,
    modules_to_freeze,
)


def linears(count: int) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(1, 1) for _ in range(count)))


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(4, 4),
        nn.BatchNorm1d(4),
        nn.Dropout(0.5),
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        nn.Linear(4, 2),
        nn.LayerNorm(2),
    )


@pytest.mark.parametrize(
    ("fraction", "layers", "count"),
    [
        (0.1, 22, 3),
        (0.2, 22, 5),
        (0.3, 22, 7),
        (0.1, 30, 3),  # 0.1 * 30 rounds to 3.0000000000000004 in places
        (0.07, 100, 7),  # 0.07 * 100 is 7.000000000000001
        (0.1 + 0.2, 10, 3),
        (1 / 3, 3, 1),
        (2 / 3, 3, 2),
        (1, 5, 5),
        (1.0, 5, 5),
        (1e-9, 5, 1),
    ],
)
def test_fraction_of_layers(fraction, layers, count):
    assert [ref.name for ref in first_layers(linears(layers), fraction)] == [str(i) for i in range(count)]


@settings(deadline=None)  # a thousand layers, on a busy machine
@given(st.integers(1, 1000), st.integers(1, 1000))
@pytest.mark.gate
def test_rounding_errors_do_not_add_a_layer(count, total):
    count = min(count, total)
    for fraction in (count / total, 1 / total * count, 1 - (total - count) / total):
        assert len(first_layers(_Many(total), fraction)) == count


class _Many(nn.Module):
    """A model of many layers that is fast to build."""

    layers = [nn.Linear(1, 1) for _ in range(1000)]  # noqa: RUF012

    def __init__(self, count: int) -> None:
        super().__init__()
        self._modules = {str(i): layer for i, layer in enumerate(self.layers[:count])}


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.floats(1e-3, 1))
def test_fraction_of_parameters_takes_the_fewest_layers(widths, fraction):
    model = nn.Sequential(*(nn.Linear(1, width) for width in widths))
    chosen = len(first_layers(model, fraction, by="parameters"))
    assert sum(widths[:chosen]) >= fraction * sum(widths) * (1 - 1e-5)
    assert sum(widths[: chosen - 1]) < fraction * sum(widths) * (1 + 1e-5)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({"fraction": 0.3}, ["0", "1", "2"]),
        ({"fraction": 0.3, "freeze_norm": False}, ["0"]),
        ({"fraction": 0.5}, ["0", "1", "2", "3.0", "3.1"]),
        ({"fraction": 1.0}, ["0", "1", "2", "3.0", "3.1", "4", "5"]),
        ({"layers": "3"}, ["3", "3.0", "3.1"]),
        ({"layers": "3", "freeze_norm": False}, ["3", "3.0"]),
        ({"layers": ["4", "1"]}, ["1", "4"]),
        ({"layers": "2"}, ["2"]),
        ({"fraction": 0.4, "by": "parameters"}, ["0", "1", "2"]),
    ],
)
def test_modules_to_freeze(arguments, names):
    assert [name for name, _ in modules_to_freeze(net(), **arguments)] == names


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor, torch.quantize_per_channel:UserWarning")
def test_a_layer_with_several_weights_counts_once():
    attention, lstm = nn.MultiheadAttention(4, 2, kdim=3), nn.LSTM(4, 4, num_layers=2)
    packed = quantize_dynamic(nn.Sequential(nn.Linear(4, 4)), {nn.Linear}, dtype=torch.qint8)
    parametrized = parametrizations.spectral_norm(nn.Linear(4, 4))
    model = nn.Sequential(attention, lstm, packed, parametrized, nn.Linear(4, 4)).train()
    expected = [
        ["0.q_proj_weight", "0.k_proj_weight", "0.v_proj_weight"],
        ["0.out_proj"],
        ["1.weight_ih_l0", "1.weight_hh_l0", "1.weight_ih_l1", "1.weight_hh_l1"],
        ["2.0"],
        ["3"],
        ["4"],
    ]
    before = deepcopy(parametrized.state_dict())
    for count in range(1, 7):
        names = [ref.name for ref in first_layers(model, count / 6)]
        assert names == [name for layer in expected[:count] for name in layer]
    # packed weights are not parameters
    sizes = [16 + 12 + 12, 16, 4 * 64, 0, 16, 16]
    for count in (1, 2, 3, 5, 6):
        fraction = sum(sizes[:count]) / sum(sizes)
        names = [ref.name for ref in first_layers(model, fraction, by="parameters")]
        assert names == [name for layer in expected[:count] for name in layer]
    assert all(torch.equal(value, before[name]) for name, value in parametrized.state_dict().items())


def test_modules_still_frozen():
    model = net()
    frozen = modules_to_freeze(model, fraction=1)
    assert [name for name, _ in frozen] == ["0", "1", "2", "3.0", "3.1", "4", "5"]
    left = modules_still_frozen(model, frozen, layers=["4", "3"])
    assert [name for name, _ in left] == ["0", "1", "2", "5"]
    assert [name for name, _ in modules_still_frozen(model, frozen, fraction=0.5)] == ["0", "1", "2", "3.0", "3.1"]
    assert [name for name, _ in modules_still_frozen(model, left, fraction=0.5)] == ["0", "1", "2"]
    assert [name for name, _ in modules_still_frozen(model, frozen, fraction=0.3, by="parameters")] == ["0", "1", "2"]
    assert modules_still_frozen(model, frozen) == []
    with pytest.raises(InputError, match="every phase to thaw modules that are frozen, but got one with `layers`"):
        modules_still_frozen(model, left, layers="4")


def test_only_frozen_modules_compute_as_in_eval_mode():
    model = net().train()
    inputs = torch.randn(8, 4)
    expected = deepcopy(model[:3]).eval()(inputs)
    frozen = freeze(model, fraction=0.3)
    before = deepcopy(model.state_dict())

    model.eval().train()
    out = model[:3](inputs)
    model(inputs)
    torch.testing.assert_close(out, expected, rtol=0, atol=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"3.1.running_mean", "3.1.running_var", "3.1.num_batches_tracked"}
    assert all(module.training for module in model.modules())

    frozen.thaw()
    model(inputs)
    assert model[1].num_batches_tracked == 1
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_modes_survive_an_error_in_the_forward_pass():
    model = net()
    freeze(model, layers="1")
    with pytest.raises(RuntimeError, match="running_mean should contain 5 elements"):
        model[1](torch.randn(2, 5))
    assert all(module.training for module in model.modules())


def test_thaw_leaves_parameters_frozen_by_the_user():
    model = net()
    model[0].bias.requires_grad_(False)
    model[0].weight.grad = torch.ones(4, 4)
    frozen = freeze(model, fraction=0.3)
    assert all(p.grad is None for p in model.parameters()), "an optimizer would use it"
    assert [p.requires_grad for p in model[:2].parameters()] == [False] * 4
    assert all(p.requires_grad for p in model[3:].parameters())
    frozen.thaw()
    assert [p.requires_grad for p in model[:2].parameters()] == [True, False, True, True]


@pytest.mark.parametrize("first", [0, 1])
def test_a_module_is_frozen_until_its_last_freeze_is_thawed(first):
    model = net()
    freezes = [freeze(model, fraction=0.3), freeze(model, layers="1")]
    assert not model[1].weight.requires_grad
    model(torch.randn(8, 4))
    assert model[1].training
    assert model[1].num_batches_tracked == 0
    freezes.pop(first).thaw()
    model(torch.randn(8, 4))
    assert model[1].num_batches_tracked == 0
    assert not any(p.requires_grad for p in model[1].parameters())
    assert all(p.requires_grad for p in model[0].parameters()) == (first == 0)
    freezes.append(freeze(model, layers="1"))
    freezes.pop().thaw()
    assert not any(p.requires_grad for p in model[1].parameters())
    freezes.pop().thaw()
    model(torch.randn(8, 4))
    assert model[1].num_batches_tracked == 1
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("duplicate", [deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_frozen_models_can_be_copied_and_pickled(duplicate):
    model = net()
    frozen = freeze(model, fraction=0.3)
    model(torch.randn(8, 4))
    copied = duplicate(model)
    copied(torch.randn(8, 4))
    assert copied[1].num_batches_tracked == 0
    assert all(module.training for module in copied.modules())
    frozen.thaw()
    model(torch.randn(8, 4))
    assert model[1].num_batches_tracked == 1


@pytest.mark.parametrize("keep_backward", [True, False])
@pytest.mark.parametrize("compile_first", [True, False])
@pytest.mark.gate
def test_compiled_models_agree_with_eager_ones(compile_first, keep_backward):
    model = net()
    model[2] = parametrizations.spectral_norm(nn.Linear(4, 4))
    eager = deepcopy(model)
    inputs = torch.randn(8, 4)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    if compile_first:
        compiled(inputs)
        eager(inputs)
    freezes = [
        Frozen([module for _, module in modules_to_freeze(each, fraction=0.5)], keep_backward)
        for each in (model, eager)
    ]
    torch.testing.assert_close(compiled(inputs), eager(inputs))
    torch.testing.assert_close(model.state_dict(), eager.state_dict())
    for frozen in freezes:
        frozen.thaw()
    torch.testing.assert_close(compiled(inputs), eager(inputs))
    torch.testing.assert_close(model.state_dict(), eager.state_dict())
    assert model[1].num_batches_tracked == (2 if compile_first else 1)


def test_the_backward_pass_of_some_frozen_modules_is_kept():
    model = net()
    kept = {model.get_submodule(name) for name in ("1", "3.0")}
    frozen = Frozen([module for _, module in modules_to_freeze(model, fraction=0.5)], keep_backward=kept)
    model(torch.randn(8, 4)).sum().backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == {
        f"{name}.{kind}" for name in ("1", "3.0", "4", "5") for kind in ("weight", "bias")
    }
    frozen.drop_gradients()
    assert [p.grad is None for p in model.parameters()] == [True] * 8 + [False] * 4
    frozen.thaw()
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupted_forward_pass_leaves_modes_and_buffers(error):
    class Raises(nn.Module):
        count: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, inputs: Any) -> Any:
            self.count += 1
            raise error

    model = nn.Sequential(nn.Linear(4, 4), Raises())
    frozen = freeze(model, layers="1")
    count = model[1].count
    with pytest.raises(error):
        model(torch.randn(2, 4))
    frozen.thaw()
    assert model[1].training
    assert model[1].count is count
    assert count == 0


PROPORTIONAL: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
    "maximising sgd": lambda groups: torch.optim.SGD(groups, lr=0.1, maximize=True, foreach=True),
    "adam": lambda groups: torch.optim.Adam(groups, lr=0.1, weight_decay=0.1, amsgrad=True),
    "fused adam": lambda groups: torch.optim.Adam(groups, lr=0.1, fused=True),
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=0.1, weight_decay=0.1),
    "nadam": lambda groups: torch.optim.NAdam(groups, lr=0.1),
    "radam": lambda groups: torch.optim.RAdam(groups, lr=0.1),
    "adamax": lambda groups: torch.optim.Adamax(groups, lr=0.1),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=0.1),
    "adadelta": lambda groups: torch.optim.Adadelta(groups, lr=0.1),
    "rmsprop": lambda groups: torch.optim.RMSprop(groups, lr=0.1, momentum=0.9, centered=True),
}


@given(factor=st.sampled_from([0.01, 0.3, 0.9, 2.5]))
@pytest.mark.parametrize("optimizer", PROPORTIONAL)
def test_scaled_updates_are_those_of_a_scaled_learning_rate(optimizer, factor):
    start = [torch.randn(3, 2, dtype=torch.float64) for _ in range(3)]
    runs = []
    for scales in (True, False):
        weights = [nn.Parameter(value.clone()) for value in start]
        rates: list[Any] = [{"params": [weight]} if scales else {"params": [weight], "lr": 0.1} for weight in weights]
        if not scales:
            rates[1]["lr"] = 0.1 * factor
        stepper = PROPORTIONAL[optimizer](rates)
        if scales:
            stray = nn.Parameter(torch.ones(1))
            ScaledUpdates(stepper, [weights[1], stray], factor)
        generator = torch.Generator().manual_seed(3)
        for _ in range(6):
            for weight in weights:
                weight.grad = torch.randn(3, 2, dtype=torch.float64, generator=generator)
            stepper.step()
        runs.append(weights)
    for ours, reference in zip(*runs, strict=True):
        torch.testing.assert_close(ours, reference, rtol=1e-10, atol=1e-12)


def test_updates_are_scaled_until_removal_also_in_later_groups():
    weights = [nn.Parameter(torch.randn(2)) for _ in range(3)]
    optimizer = torch.optim.SGD(weights[:2], lr=1.0)
    scaled = ScaledUpdates(optimizer, weights[1:], factor=0.25)
    optimizer.add_param_group({"params": weights[2:]})
    for factors in ((1, 0.25, 0.25), (1, 1, 1)):
        before = [weight.detach().clone() for weight in weights]
        for weight in weights:
            weight.grad = torch.ones(2)
        optimizer.step()
        for weight, value, factor in zip(weights, before, factors, strict=True):
            torch.testing.assert_close(value - weight, torch.full((2,), float(factor)))
        scaled.remove()


@pytest.mark.parametrize("factor", [0.1, 0.7, 3.0])
def test_parameters_that_do_not_move_keep_every_bit(factor):
    weights = [nn.Parameter(torch.randn(1000)) for _ in range(2)]
    optimizer = torch.optim.SGD(weights, lr=1.0)
    ScaledUpdates(optimizer, weights, factor)
    weights[0].grad = torch.zeros(1000)
    before = [weight.detach().clone() for weight in weights]
    optimizer.step()
    assert all(map(torch.equal, weights, before))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        *(({"fraction": bad}, f"`fraction` in (0, 1], but got {bad}. ") for bad in (0, 2, -0.1, nan, True, "a")),
        ({}, "exactly one of `fraction` and `layers`, but got neither"),
        ({"fraction": 0.1, "layers": "0"}, "exactly one of `fraction` and `layers`, but got both"),
        ({"fraction": 0.1, "by": "depth"}, "`by` to be one of 'layers', 'parameters', but got 'depth'"),
        ({"layers": []}, "`layers` to name at least one layer, but got []"),
        ({"layers": ["0", "33"]}, "to match a module, but got `33`, which matches none. HINT: close matches are `3`."),
        ({"layers": "1", "freeze_norm": False}, "`layers` to match modules that can be frozen, but got ['1']"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(InputError, match=re.escape(message)):
        freeze(net(), **arguments)
