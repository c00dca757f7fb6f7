"""Optimizers do not move masked weights, and do not push them after the masks are removed."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn, optim

from lit_prune.functional import masking, selection
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.masking import apply_masks, mask_gradients, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state, clear_state, keeps_zeros
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.selection import WeightRef

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

OPTIMIZERS: dict[str, Callable[[Any], optim.Optimizer]] = {
    "sgd": lambda p: optim.SGD(p, 0.1),
    "nesterov": lambda p: optim.SGD(p, 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
    "maximize": lambda p: optim.SGD(p, 0.1, momentum=0.9, maximize=True),
    "adam": lambda p: optim.Adam(p, 0.1, weight_decay=0.1),
    "amsgrad": lambda p: optim.Adam(p, 0.1, amsgrad=True),
    "fused": lambda p: optim.Adam(p, 0.1, fused=True),
    "foreach": lambda p: optim.Adam(p, 0.1, foreach=True),
    "adamw": lambda p: optim.AdamW(p, 0.1),
    "adamax": lambda p: optim.Adamax(p, 0.1),
    "nadam": lambda p: optim.NAdam(p, 0.1),
    "radam": lambda p: optim.RAdam(p, 0.1),
    "rmsprop": lambda p: optim.RMSprop(p, 0.1, momentum=0.9, centered=True),
    "adagrad": lambda p: optim.Adagrad(p, 0.1),
    "adadelta": lambda p: optim.Adadelta(p, 1.0),
    "rprop": lambda p: optim.Rprop(p, 0.1),
}


@pytest.mark.parametrize("name", list(OPTIMIZERS))
def test_pruned_weights_stay_zero_and_grow_only_by_new_gradients(name: str) -> None:
    torch.manual_seed(0)
    model: Any = nn.Linear(6, 5)
    optimizer = OPTIMIZERS[name](model.parameters())
    assert keeps_zeros(optimizer)

    def train(steps: int) -> None:
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=False)
            model(torch.randn(8, 6)).square().sum().backward()
            mask_gradients(model)
            optimizer.step()

    train(4)
    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    clear_pruned_state(optimizer, model)
    pruned = ~current_mask(selection.WeightRef("", model, "weight"))
    before = model.weight.detach().clone()
    train(4)
    # bits: neither drift nor -0.0
    assert not model.weight[pruned].view(torch.int32).any()
    assert (model.weight[~pruned] != before[~pruned]).all()

    clear_pruned_state(optimizer, model)
    remove_masks(model)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert not model.weight[pruned].any()
    train(3)
    assert (model.weight[pruned] != 0).all()


def test_momentum_that_is_not_cleared_moves_unmasked_weights() -> None:
    model: Any = nn.Linear(6, 5)
    optimizer = optim.SGD(model.parameters(), 0.1, momentum=0.9)
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    pruned = ~current_mask(selection.WeightRef("", model, "weight"))
    remove_masks(model)
    optimizer.zero_grad(set_to_none=False)
    optimizer.step()
    assert model.weight[pruned].any()


def test_optimizers_that_mix_weights_may_not_keep_zeros() -> None:
    parameters = nn.Linear(2, 2).parameters()
    assert not keeps_zeros(optim.LBFGS(parameters))


@pytest.mark.parametrize(
    ("make", "remembers"),
    [
        (lambda p: optim.Adam(p, lr=0.1), True),
        (lambda p: optim.AdamW(p, lr=0.1, weight_decay=0.1), True),
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9), True),
        (lambda p: optim.RMSprop(p, lr=0.1), True),
        (lambda p: optim.Adagrad(p, lr=0.1), True),
        # no memory
        (lambda p: optim.SGD(p, lr=0.1), False),
        # weight decay adds to the gradient, so every weight would seem to have had one
        (lambda p: optim.Adam(p, lr=0.1, weight_decay=0.1), False),
        (lambda p: optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1), False),
    ],
)
def test_coverage_sees_gradients_that_the_optimizer_remembers(make, remembers):
    layer = nn.Linear(6, 4)
    optimizer = make(layer.parameters())
    given = torch.rand(20, 4, 6) < 0.05
    for now in given:
        layer.weight.grad = torch.where(now, torch.randn(4, 6), 0.0)
        optimizer.step()
    coverage = GradientCoverage(weight_layers(layer))
    coverage.update([optimizer])
    expected = given.any(0) if remembers else given[-1]
    assert torch.equal(coverage.touched()[""], expected)


class Wrapper(optim.Optimizer):
    """Steps with an optimizer of its own, which has the momentum, as SAM and Lookahead do."""

    def __init__(self, parameters: Any) -> None:
        super().__init__(parameters, {})
        self.inner = optim.SGD(self.param_groups, 0.1, momentum=0.9)

    def step(self, closure: Any = None) -> Any:
        return self.inner.step(closure)


def test_state_of_an_optimizer_inside_another_is_cleared() -> None:
    model: Any = nn.Linear(6, 5)
    optimizer = Wrapper(model.parameters())
    model(torch.randn(8, 6)).square().sum().backward()
    optimizer.step()
    mask = torch.rand(5, 6) > 0.5
    apply_masks(model, {"": mask})
    clear_pruned_state(optimizer, model)
    momentum = optimizer.inner.state[model.weight]["momentum_buffer"]
    assert not momentum[~mask].any()
    assert momentum[mask].all()
    clear_state(optimizer)
    assert not optimizer.inner.state


class Averages(optim.Optimizer):
    """Keeps a copy of the weights in its state, as schedule-free optimizers do."""

    def step(self, closure: Any = None) -> Any:
        for parameter in self.param_groups[0]["params"]:
            state = self.state[parameter]
            if "z" not in state:
                state["z"] = parameter.detach().clone()
            state["z"].sub_(parameter.grad, alpha=0.1)
            parameter.data.lerp_(state["z"], 0.5)


def test_copies_of_weights_in_the_state_start_at_the_weights() -> None:
    weight = nn.Parameter(torch.rand(3) + 1)
    optimizer = Averages([weight], {})
    weight.grad = torch.ones(3)
    optimizer.step()
    weight.data.fill_(5.0)  # rewound
    clear_state(optimizer)
    weight.grad = torch.ones(3)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((3,), 4.95))


def test_codes_of_an_8_bit_optimizer_are_left_alone() -> None:
    model: Any = nn.Linear(6, 5)
    optimizer = optim.SGD(model.parameters(), 0.1)
    codes = torch.randint(1, 255, (5, 6), dtype=torch.uint8)
    optimizer.state[model.weight] = {"codes": codes.clone(), "average": torch.ones(5, 6)}
    mask = torch.rand(5, 6) > 0.5
    apply_masks(model, {"": mask})
    clear_pruned_state(optimizer, model)
    assert torch.equal(optimizer.state[model.weight]["codes"], codes)
    assert torch.equal(optimizer.state[model.weight]["average"] != 0, mask)


def test_sparse_gradients_of_an_embedding_are_counted() -> None:
    model = nn.Embedding(4, 3, sparse=True)
    coverage = GradientCoverage([WeightRef("weight", model, "weight")])
    model(torch.tensor([1, 3])).sum().backward()
    coverage.update()
    assert coverage.touched()["weight"].tolist() == [[row in (1, 3)] * 3 for row in range(4)]
