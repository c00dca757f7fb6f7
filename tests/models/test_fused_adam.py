"""Fused Adam gives the same bits without copies, and right updates whatever the layout of its state and gradients."""

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn, optim
from torch.profiler import profile

from lit_prune import LitResNet18
from lit_prune.models.fused_adam import ready_fused_adam

# of type Any, because mypy does not know which modules and tensors a model contains
KINDS: dict[str, Any] = {
    "adam": lambda p: optim.Adam(p, 0.01, fused=True),
    "decay": lambda p: optim.Adam(p, 0.01, weight_decay=0.1, maximize=True, fused=True),
    "amsgrad": lambda p: optim.Adam(p, 0.01, amsgrad=True, fused=True),
    "adamw": lambda p: optim.AdamW(p, 0.01, fused=True),
    "not fused": lambda p: optim.Adam(p, 0.01, fused=False),
    "sgd": lambda p: optim.SGD(p, 0.01, momentum=0.9, fused=True),
}


def network() -> nn.Sequential:
    """A network with parameters of 4, 2 and 1 dimensions."""
    layers = nn.Sequential(nn.Conv2d(5, 7, 3), nn.Conv2d(7, 6, 1), nn.Flatten(), nn.Linear(6, 3))
    return layers.to(memory_format=torch.channels_last)


def move(model: nn.Module, optimizer: optim.Optimizer, seed: int, order: Any = torch.channels_last) -> None:
    """Step along random gradients of a memory format."""
    torch.manual_seed(seed)
    for parameter in model.parameters():
        gradient = torch.randn(parameter.shape)
        if parameter.dim() == 4:
            gradient = gradient.contiguous(memory_format=order)
        parameter.grad = gradient
    optimizer.step()


def tensors(model: nn.Module, optimizer: optim.Optimizer) -> list[Tensor]:
    """The parameters and the state of their optimizer, as the state dict gives it."""
    state: dict[int, dict[str, Tensor]] = optimizer.state_dict()["state"]
    return [*model.parameters(), *(value for values in state.values() for value in values.values())]


@pytest.mark.parametrize("name", list(KINDS))
def test_bits_and_layouts_are_those_of_torch(name: str) -> None:
    model = network()
    twin = copy.deepcopy(model)
    ready, plain = KINDS[name](model.parameters()), KINDS[name](twin.parameters())
    ready_fused_adam(ready)
    for seed in range(3):
        move(model, ready, seed)
        move(twin, plain, seed)
    for ours, theirs in zip(tensors(model, ready), tensors(twin, plain), strict=True):
        assert torch.equal(ours, theirs)
        assert ours.stride() == theirs.stride()


def test_a_step_of_the_model_copies_no_weights() -> None:
    model = LitResNet18()
    copies: list[int] = []
    for ready in (True, False):
        optimizer = optim.Adam(model.parameters(), fused=True)
        if ready:
            ready_fused_adam(optimizer)
        move(model, optimizer, 0)
        with profile(record_shapes=True) as profiler:
            optimizer.step()
        found = [
            event for event in profiler.events() if event.name == "aten::copy_" and len(event.input_shapes[0]) == 4
        ]
        copies.append(len(found))
    assert copies[0] == 0
    assert copies[1] > 0, "this torch copies no weights: `ready_fused_adam` needs only its hook"


@pytest.mark.parametrize("saved", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", ["adam", "amsgrad"])
def test_a_state_of_another_layout_continues_as_if_it_had_this_one(name: str, saved: Any) -> None:
    model = network()
    twin = copy.deepcopy(model).to(memory_format=saved)
    ready, slow = KINDS[name](model.parameters()), KINDS[name](twin.parameters())
    ready_fused_adam(ready)
    move(twin, slow, 0, saved)
    model.load_state_dict(twin.state_dict())
    ready.load_state_dict(copy.deepcopy(slow.state_dict()))
    for seed in (1, 2):
        move(model, ready, seed)
        move(twin, slow, seed, saved)
    for ours, theirs in zip(tensors(model, ready), tensors(twin, slow), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-7)


def test_gradients_of_another_layout_are_read_by_position() -> None:
    model = network()
    twin = copy.deepcopy(model)
    ready, plain = KINDS["adam"](model.parameters()), KINDS["adam"](twin.parameters())
    ready_fused_adam(ready)
    move(model, ready, 0, torch.contiguous_format)
    move(twin, plain, 0, torch.channels_last)
    assert all(map(torch.equal, tensors(model, ready), tensors(twin, plain)))


def test_an_optimizer_that_is_ready_can_be_copied_and_made_ready_again() -> None:
    model = network()
    optimizer = KINDS["adam"](model.parameters())
    for _ in range(2):
        ready_fused_adam(optimizer)
    move(model, optimizer, 0)
    twin, copied = copy.deepcopy((model, optimizer))
    assert pickle.dumps(optimizer)
    move(model, optimizer, 1)
    move(twin, copied, 1)
    assert all(map(torch.equal, tensors(model, optimizer), tensors(twin, copied)))
