"""A rewound model has its earlier values and its current masks."""

from typing import Any

import pytest
import torch
from torch import nn, optim
from torch.nn.utils import prune

from lit_prune.errors import InputError
from lit_prune.functional import (
    apply_masks,
    clear_state,
    compute_masks,
    remove_masks,
    rewind,
    selection,
    stored_values,
)
from lit_prune.functional.masking import current_mask
from lit_prune.functional.selection import WeightRef
from tests.callbacks.models import MisleadingNames, Tied, Transformer, conv_net, mlp, moved, snapshot

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers

NETS = [conv_net, mlp, MisleadingNames, Tied, Transformer]


def train(net: nn.Module, optimizer: optim.Optimizer, steps: int = 3) -> None:
    net.train()
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        optimizer.zero_grad()
        net(torch.randn(4, 3, 8, 8, generator=generator)).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("masked_before", [True, False])
@pytest.mark.parametrize("make", NETS)
def test_unmasked_values_are_the_earlier_ones(make: Any, masked_before: bool) -> None:
    torch.manual_seed(0)
    net = make()
    if masked_before:
        apply_masks(net, compute_masks(weight_layers(net), 0.2))
    then, values = snapshot(net), stored_values(net)
    parameters = list(net.parameters())
    train(net, optim.SGD(net.parameters(), lr=0.01))
    assert moved(then, snapshot(net))
    masks = compute_masks(weight_layers(net), 0.5)
    apply_masks(net, masks)
    rewind(net, values)
    assert all(a is b for a, b in zip(parameters, net.parameters(), strict=True))
    assert set(values) == set(then)
    kept = {ref.parameter_name: masks[ref.name] for ref in weight_layers(net)}
    now = snapshot(net)
    aliases = {"decode.weight": "encode.weight"} if make is Tied else {}
    for name, old in then.items():
        mask = kept.get(aliases.get(name, name))
        expected = old if mask is None else torch.where(mask, old, 0)
        assert torch.equal(now[name], expected), name
    assert sum(int((~mask).sum()) for mask in masks.values()) == round(0.5 * sum(m.numel() for m in masks.values()))
    remove_masks(net)
    assert not moved(now, snapshot(net))


def test_the_values_are_copies() -> None:
    net = mlp()
    values = stored_values(net)
    before = {name: value.clone() for name, value in values.items()}
    train(net, optim.SGD(net.parameters(), lr=0.1))
    assert not moved(before, values)
    rewind(net, values)
    train(net, optim.SGD(net.parameters(), lr=0.1))
    assert not moved(before, values)


def test_masks_of_torch_are_kept() -> None:
    net: Any = mlp()
    values = stored_values(net)
    prune.l1_unstructured(net[1], "weight", 0.5)
    prune.random_unstructured(net[3], "bias", 3)
    train(net, optim.SGD(net.parameters(), lr=0.1))
    again = stored_values(net)
    masks = net[1].weight_mask.clone()
    rewind(net, values)
    kept: Any = current_mask(WeightRef("", net[1], "weight"))
    assert torch.equal(kept, masks.bool())
    assert torch.equal(net[1].weight, values["1.weight"] * masks)
    assert set(again) == set(values)


def test_non_persistent_buffers_are_not_changed() -> None:
    net = nn.Linear(2, 2)
    net.register_buffer("cache", torch.zeros(1), persistent=False)
    values = stored_values(net)
    net.get_buffer("cache").fill_(3)
    rewind(net, values)
    assert set(values) == {"weight", "bias"}
    assert net.get_buffer("cache") == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": torch.ones(2, 2), "b": torch.ones(2)}, r"`b` of shape \(2,\) to rewind, but got one without it"),
        ({"bias": torch.ones(2), "weight": torch.ones(1)}, r"`weight` of shape \(1,\) to rewind, but got \(2, 2\)"),
    ],
)
def test_values_of_another_model_are_refused_and_nothing_changes(values: dict[str, Any], message: str) -> None:
    net = nn.Linear(2, 2)
    before = snapshot(net)
    with pytest.raises(InputError, match=message):
        rewind(net, values)
    assert not moved(before, snapshot(net))


MAKERS = {
    "sgd": lambda parameters: optim.SGD(parameters, lr=0.01, momentum=0.9, dampening=0.5),
    "adam": lambda parameters: optim.Adam(parameters, lr=0.01, amsgrad=True),
    "adamw": lambda parameters: optim.AdamW(parameters, lr=0.01),
    "nadam": lambda parameters: optim.NAdam(parameters, lr=0.01),
    "radam": lambda parameters: optim.RAdam(parameters, lr=0.01),
    "rmsprop": lambda parameters: optim.RMSprop(parameters, lr=0.01, momentum=0.5, centered=True),
    "adagrad": lambda parameters: optim.Adagrad(parameters, lr=0.01, initial_accumulator_value=0.3),
    "adadelta": lambda parameters: optim.Adadelta(parameters, lr=0.01),
    "adamax": lambda parameters: optim.Adamax(parameters, lr=0.01),
    "rprop": lambda parameters: optim.Rprop(parameters, lr=0.01),
}


@pytest.mark.parametrize("name", list(MAKERS))
def test_a_cleared_optimizer_steps_like_a_new_one(name: str) -> None:
    torch.manual_seed(0)
    net: Any = mlp()
    values = stored_values(net)
    used = MAKERS[name](net.parameters())
    train(net, used)
    assert used.state
    rewind(net, values)
    clear_state(used)
    assert all(not parameter.grad.any() for parameter in net.parameters())
    train(net, used)
    cleared = snapshot(net)
    rewind(net, values)
    train(net, MAKERS[name](net.parameters()))
    assert not moved(cleared, snapshot(net))
    # unlike one that was not cleared
    rewind(net, values)
    train(net, used)
    assert moved(cleared, snapshot(net))


def test_a_cleared_optimizer_of_a_class_of_ones_own_steps_like_a_new_one() -> None:
    class Own(optim.Adam):
        pass

    torch.manual_seed(0)
    net: Any = mlp()
    values, used = stored_values(net), Own(net.parameters(), lr=0.1)
    train(net, used)
    rewind(net, values)
    clear_state(used)
    train(net, used)
    cleared = snapshot(net)
    rewind(net, values)
    train(net, Own(net.parameters(), lr=0.1))
    assert not moved(cleared, snapshot(net))
    rewind(net, values)
    train(net, used)
    assert moved(cleared, snapshot(net))
