"""Masks change neither layers nor parameters, hold zeros against any optimizer, and torch's `prune` knows them."""

import copy
import gc
import io
import pickle
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import utils

from lit_prune.errors import InputError
from lit_prune.functional import selection
from lit_prune.functional.masking import (
    Mask,
    adopt_masks,
    apply_masks,
    copy_masks,
    current_mask,
    hold_masks,
    mask_gradients,
    masked_parameters,
    remove_masks,
)
from lit_prune.functional.pruning import compute_masks

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
prune: Any = utils.prune


def net() -> Any:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))


def images() -> Tensor:
    return torch.randn(5, 3, 4, 4)


def masked(amount: float = 0.5) -> Any:
    model = net()
    apply_masks(model, compute_masks(weight_layers(model), amount))
    return model


def kept(module: Any, name: str = "weight") -> Any:
    return current_mask(selection.WeightRef("", module, name))


def zeros(model: Any) -> int:
    return sum(int((ref.module.weight == 0).sum()) for ref in weight_layers(model))


def test_masked_layers_agree_with_those_of_torch() -> None:
    model, plain = net(), net()
    plain.load_state_dict(model.state_dict())
    masks = compute_masks(weight_layers(model), 0.5)
    apply_masks(model, masks)
    assert prune.is_pruned(model)
    for index in (0, 3):
        prune.custom_from_mask(plain[index], "weight", masks[str(index)])
        assert torch.equal(model[index].weight, plain[index].weight)
        assert torch.equal(kept(model[index]), plain[index].weight_mask.bool())
    batch = images()
    assert torch.equal(model(batch), plain(batch))
    model(batch).sum().backward()
    mask_gradients(model)
    plain(batch).sum().backward()
    for mine, theirs in zip(
        model.parameters(), (p for _, p in sorted(plain.named_parameters(), key=order)), strict=True
    ):
        assert torch.equal(mine.grad, theirs.grad)


def order(item: tuple[str, Any]) -> tuple[str, bool]:
    """Sort a weight before its bias, because torch moves masked weights behind it."""
    return item[0].split(".")[0], "bias" in item[0]


@pytest.mark.parametrize("by_torch", [True, False])
def test_masks_change_no_name_type_order_or_buffer(by_torch: bool) -> None:
    model = net()
    parameters, classes = dict(model.named_parameters()), [type(module) for module in model]

    def check() -> None:
        now = dict(model.named_parameters())
        assert list(now) == list(parameters) == ["0.weight", "0.bias", "3.weight", "3.bias"]
        assert all(now[name] is parameters[name] for name in now)
        assert [type(module) for module in model] == classes
        assert not list(model.buffers())
        assert list(model.state_dict()) == list(net().state_dict())

    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    check()
    before = {name: value.detach().clone() for name, value in parameters.items()}
    if by_torch:
        prune.remove(model[0], "weight")
        prune.remove(model[3], "weight")
    else:
        assert remove_masks(model) == ["0.weight", "3.weight"]
    assert not prune.is_pruned(model)
    check()
    assert all(torch.equal(value, before[name]) for name, value in parameters.items())


def test_another_method_of_torch_on_top_is_refused_and_loses_nothing() -> None:
    model = masked()
    before, mask = zeros(model), kept(model[0])
    message = r"^Expected no other pruning method for `weight`, which lit-prune has masked, but got .*remove\(module, "
    for apply in (
        lambda: prune.l1_unstructured(model[0], "weight", amount=10),
        lambda: prune.global_unstructured([(model[0], "weight")], prune.L1Unstructured, amount=0.2),
    ):
        with pytest.raises(InputError, match=message):
            apply()
        assert torch.equal(kept(model[0]), mask)
        assert prune.is_pruned(model[0])
    assert zeros(model) == before
    # another parameter of the same layer is free, and torch's masks are removed together with ours
    prune.random_unstructured(model[0], "bias", amount=2)
    model(images()).sum().backward()
    assert set(remove_masks(model)) == {"0.bias", "0.weight", "3.weight"}
    assert int((model[0].bias == 0).sum()) == 2
    assert zeros(model) == before
    # the hint of the message
    prune.l1_unstructured(model[0], "weight", amount=10)


@pytest.mark.parametrize("method", [prune.L1Unstructured, prune.RandomUnstructured])
def test_masks_of_torch_are_adopted(method: Any) -> None:
    model = net()
    prune.global_unstructured([(model[0], "weight"), (model[0], "bias"), (model[3], "weight")], method, amount=0.3)
    masks = {name: value.bool() for name, value in model.named_buffers()}
    weights = {name: value.detach().clone() for name, value in model.named_parameters()}
    adopt_masks(model)
    assert {name for name, _ in model.named_parameters()} == {name for name, _ in net().named_parameters()}
    for name, mask in masks.items():
        layer, parameter = name.removesuffix("_mask").split(".")
        assert torch.equal(kept(model[int(layer)], parameter), mask)
        value = model.get_parameter(f"{layer}.{parameter}")
        assert torch.equal(value, weights[f"{layer}.{parameter}_orig"] * mask)


def test_masks_of_torch_are_made_permanent() -> None:
    model = net()
    prune.global_unstructured([(model[0], "weight"), (model[3], "weight")], prune.L1Unstructured, amount=0.3)
    model(images())
    apply_masks(model, compute_masks(weight_layers(model), 0.6))
    total = sum(ref.tensor.numel() for ref in weight_layers(model))
    assert zeros(model) == round(0.6 * total)
    copy.deepcopy(model)


def test_masked_models_can_be_copied_and_pickled_after_a_backward() -> None:
    model = masked()
    batch = images()
    model(batch).sum().backward()
    saved = io.BytesIO()
    torch.save(model, saved)
    saved.seek(0)
    for twin in (
        copy.deepcopy(model),
        copy.copy(model),
        pickle.loads(pickle.dumps(model)),  # noqa: S301
        torch.load(saved, weights_only=False),
    ):
        assert torch.equal(twin(batch), model(batch))
        assert prune.is_pruned(twin)
        assert type(twin[0]) is type(model[0])
    twin = copy.deepcopy(model)
    remove_masks(twin)
    assert prune.is_pruned(model)


@pytest.mark.gate
def test_a_pickled_model_opens_in_another_process(tmp_path: Any) -> None:
    model = masked()
    torch.save(model, tmp_path / "model.pt")
    load = f"torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)"
    code = f"import torch; print(({load}[0].weight == 0).sum().item())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int((model[0].weight == 0).sum())


def test_the_state_dict_is_that_of_a_plain_model() -> None:
    model, plain = masked(), net()
    assert list(model.state_dict()) == list(plain.state_dict())
    plain.load_state_dict(model.state_dict())
    assert zeros(plain) == zeros(model)
    batch = images()
    assert torch.equal(plain(batch), model(batch))


@pytest.mark.parametrize("assign", [False, True])
def test_loaded_weights_are_those_of_the_file_until_masks_are_held(assign: bool) -> None:
    batch = images()
    for source in (net(), masked(0.2), masked(0.9)):
        model = masked(0.5)
        mask = kept(model[0])
        model.load_state_dict(copy.deepcopy(source.state_dict()), assign=assign)
        assert torch.equal(model(batch), source(batch))
        hold_masks(model, torch.optim.SGD(model.parameters(), 0.1))
        assert torch.equal(kept(model[0]), mask)
        assert torch.equal(model[0].weight, source[0].weight * mask)


def test_missing_keys_are_reported_by_their_unmasked_names() -> None:
    model = masked()
    state = model.state_dict()
    del state["0.weight"]
    assert model.load_state_dict(state, strict=False).missing_keys == ["0.weight"]
    with pytest.raises(RuntimeError, match=r'Missing key\(s\) in state_dict: "0.weight"'):
        model.load_state_dict(state)
    with pytest.raises(RuntimeError, match=r"size mismatch for 0.weight"):
        model.load_state_dict(state | {"0.weight": torch.zeros(1)})


def test_a_weight_that_is_read_without_calling_its_layer_gets_gradients() -> None:
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    weights = weight_layers(attention)
    assert [ref.name for ref in weights] == ["in_proj_weight", "out_proj"]
    apply_masks(attention, compute_masks(weights, 0.5))
    tokens = torch.randn(3, 5, 8)
    optimizer = torch.optim.SGD(attention.parameters(), lr=1.0)
    hold_masks(attention, optimizer)
    first = attention(tokens, tokens, tokens)[0]
    first.square().sum().backward()
    optimizer.step()
    assert not torch.equal(attention(tokens, tokens, tokens)[0], first)
    assert int((attention.out_proj.weight == 0).sum() + (attention.in_proj_weight == 0).sum()) == 128


def test_tied_weights_are_masked_in_every_layer() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [ref.name for ref in weight_layers(model)] == ["0"]
    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    assert torch.equal(model[0].weight, model[1].weight)
    assert model[0].weight is model[1].weight
    assert prune.is_pruned(model[1])
    model(torch.randn(3, 4)).sum().backward()
    mask_gradients(model)
    assert not model[0].weight.grad[~kept(model[1])].any()
    remove_masks(model)
    assert model[0].weight is model[1].weight


def test_channels_last_is_kept() -> None:
    model = net().to(memory_format=torch.channels_last)
    apply_masks(model, compute_masks(weight_layers(model), 0.5))
    (mask,) = (hook for hook in model[0]._forward_pre_hooks.values() if isinstance(hook, Mask))
    for tensor in (model[0].weight, mask.bits, model.state_dict()["0.weight"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    remove_masks(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_masked_model_can_change_its_dtype(dtype: torch.dtype) -> None:
    model = masked().to(dtype)
    assert model[0].weight.dtype == dtype
    assert zeros(model) == zeros(masked())
    mask = kept(model[0])
    with torch.no_grad():
        model[0].weight.add_(1)
    hold_masks(model, torch.optim.SGD(model.parameters(), 0.1))
    assert torch.equal(model[0].weight != 0, mask)


def test_masking_again_and_again_takes_no_more_memory() -> None:
    model = nn.Sequential(nn.Linear(64, 64))

    def tensors() -> int:
        gc.collect()
        return sum(tensor.numel() for tensor in gc.get_objects() if type(tensor) in (Tensor, nn.Parameter))

    apply_masks(model, compute_masks(weight_layers(model), 0.01))
    before = tensors()
    for event in range(2, 42):
        apply_masks(model, compute_masks(weight_layers(model), event / 100))
    assert tensors() == before
    assert len(pickle.dumps(model)) < 2 * 64 * 64 * 4 + 4000
    assert len(model[0]._forward_pre_hooks) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.gate)])
def test_compiled_models_agree_with_eager_ones(backend: str) -> None:
    batch = images()
    for compile_first in (True, False):
        torch._dynamo.reset()
        model = net()
        if not compile_first:
            apply_masks(model, compute_masks(weight_layers(model), 0.2))
        compiled = torch.compile(model, backend=backend)
        for amount in (0.0, 0.3, 0.7):
            apply_masks(model, compute_masks(weight_layers(model), amount))
            model.zero_grad()
            expected = model(batch)
            assert zeros(model) == round(max(amount, 0.0 if compile_first else 0.2) * 258)
            expected.sum().backward()
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            model.zero_grad()
            got = compiled(batch)
            got.sum().backward()
            torch.testing.assert_close(got, expected)
            for parameter, gradient in zip(model.parameters(), gradients, strict=True):
                torch.testing.assert_close(parameter.grad, gradient)
        remove_masks(model)
        torch.testing.assert_close(compiled(batch), model(batch))


def test_masks_for_another_model_are_refused() -> None:
    with pytest.raises(InputError, match="but got one for `5`, which has no weight"):
        apply_masks(net(), {"5": torch.ones(1)})
    with pytest.raises(InputError, match=r"a mask of shape \(4, 24\) for layer `3`, but got \(1,\)"):
        apply_masks(net(), {"3": torch.ones(1)})


class Mixing(torch.optim.SGD):
    """An optimizer that moves every entry of a parameter by the mean gradient, as Muon and Adafactor mix entries."""

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.sub_(group["lr"] * parameter.grad.mean() + 1e-3)


@pytest.mark.parametrize(
    "optimizer",
    [
        lambda parameters: torch.optim.SGD(parameters, 0.1, momentum=0.9, weight_decay=0.1, nesterov=True),
        lambda parameters: torch.optim.Adam(parameters, 0.01, amsgrad=True),
        lambda parameters: torch.optim.AdamW(parameters, 0.01, weight_decay=0.3),
        lambda parameters: torch.optim.Adafactor(parameters, 0.01),
        lambda parameters: Mixing(parameters, 0.1),
    ],
)
@pytest.mark.parametrize("clip", [False, True])
def test_plain_loops_hold_masks_with_any_optimizer(optimizer: Any, clip: bool) -> None:
    model: Any = nn.Sequential(net(), nn.Flatten(), nn.Linear(4, 2))
    used = optimizer(model.parameters())
    first = {name: value.detach().clone() for name, value in model.named_parameters()}
    start = [value.detach().clone() for value in model.parameters()]
    handle = hold_masks(model, used)
    masks: dict[str, Tensor] = {}
    for step in range(6):
        if step in (2, 4):  # masks that come later are held too
            masks = compute_masks(weight_layers(model), step / 6)
            apply_masks(model, masks)
        used.zero_grad()
        # a penalty that pulls every weight to where it began, as L2-SP
        penalty = sum(((value - before) ** 2).sum() for value, before in zip(model.parameters(), start, strict=True))
        (model(images()).square().sum() + penalty).backward()
        if clip:
            mask_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
        used.step()
        for name, mask in masks.items():
            weight = model.get_submodule(name).weight
            # bits, so that -0.0 is not 0.0
            assert not weight[~mask].view(torch.int32).any()
            assert weight[mask].all()
    assert all(not torch.equal(value, first[name]) for name, value in model.named_parameters())
    handle.remove()
    model(images()).sum().backward()
    used.step()
    if type(used) is Mixing:
        assert any(model.get_submodule(name).weight[~mask].any() for name, mask in masks.items())


def test_gradients_that_are_infinite_or_nan_at_pruned_weights_become_zero() -> None:
    layer = nn.Linear(4, 1, bias=False)
    mask = torch.tensor([[True, False, True, False]])
    apply_masks(layer, {"": mask})
    optimizer = torch.optim.SGD(layer.parameters(), 0.1)
    hold_masks(layer, optimizer)
    layer.weight.abs().sqrt().sum().backward()  # its slope at zero is infinite, or NaN
    assert layer.weight.grad is not None
    assert not layer.weight.grad[~mask].isfinite().any()
    optimizer.step()
    assert layer.weight[mask].isfinite().all()
    assert not layer.weight[~mask].any()


def test_only_weights_of_the_stepping_optimizer_are_touched() -> None:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    apply_masks(model, {name: torch.rand(3, 3) > 0.5 for name in "01"})
    optimizer = torch.optim.SGD(model[0].parameters(), 0.1)
    hold_masks(model, optimizer)
    with torch.no_grad():
        model[1].weight.fill_(1.0)
    model(torch.ones(1, 3)).sum().backward()
    gradient = model[1].weight.grad.clone()
    optimizer.step()
    assert (model[1].weight == 1).all()
    assert torch.equal(model[1].weight.grad, gradient)
    assert not model[0].weight[~kept(model[0])].any()


def test_a_copy_gets_exactly_the_masks_of_its_model() -> None:
    model, twin = masked(0.6), masked(0.3)
    prune.remove(model[3], "weight")
    weights = copy.deepcopy(twin.state_dict())
    copy_masks(model, twin)
    assert [masked_parameters(module) for module in twin] == [masked_parameters(module) for module in model]
    assert torch.equal(twin[0].weight, weights["0.weight"] * kept(model[0]))
    assert torch.equal(twin[3].weight, weights["3.weight"])


def test_any_parameter_can_be_masked() -> None:
    vector = nn.ParameterList([torch.rand(5)])
    model: Any = nn.Sequential(nn.LSTM(3, 4, bidirectional=True), nn.Bilinear(2, 3, 4), vector)
    weights = weight_layers(model)
    assert [ref.name for ref in weights] == [
        *(f"0.weight_{kind}_l0{end}" for end in ("", "_reverse") for kind in ("ih", "hh")),
        "1",
    ]
    masks = {ref.name: torch.rand(ref.tensor.shape) > 0.4 for ref in weights} | {"2.0": torch.arange(5) > 1}
    apply_masks(model, masks)
    for ref in weights:
        assert torch.equal(ref.tensor != 0, masks[ref.name])
    assert torch.equal(model[2][0] != 0, torch.arange(5) > 1)
    assert set(remove_masks(model)) == {"2.0", "1.weight", *(ref.name for ref in weights[:-1])}


def test_masks_are_held_by_the_optimizer_that_others_wrap() -> None:
    class Wrapper(torch.optim.Optimizer):
        """Like the one of Accelerate: calls no `__init__`, so it has no hooks."""

        def __init__(self, optimizer: torch.optim.Optimizer) -> None:
            self.optimizer = optimizer
            self.param_groups = optimizer.param_groups

        def step(self, closure: Any = None) -> Any:
            return self.optimizer.step(closure)

    layer = nn.Linear(4, 4)
    mask = torch.rand(4, 4) > 0.5
    apply_masks(layer, {"": mask})
    optimizer = Wrapper(torch.optim.AdamW(layer.parameters(), 0.1))
    hold_masks(layer, optimizer)
    before = layer.weight.detach().clone()
    layer(torch.rand(2, 4)).sum().backward()
    optimizer.step()
    assert not layer.weight[~mask].any()
    assert (layer.weight != before)[mask].all()


def test_a_step_that_calls_its_closure_several_times_sees_zeros_each_time() -> None:
    layer = nn.Linear(6, 4)
    mask = torch.rand(4, 6) > 0.5
    apply_masks(layer, {"": mask})
    optimizer = torch.optim.LBFGS(layer.parameters(), 0.5, max_iter=6)
    hold_masks(layer, optimizer)
    inputs, before, calls = torch.randn(9, 6), layer.weight.detach().clone(), 0

    def closure() -> Any:
        nonlocal calls
        calls += 1
        assert not layer.weight[~mask].any()
        optimizer.zero_grad()
        loss = (layer(inputs) - 1).square().mean() + (layer.weight - 1).square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    assert calls > 2
    assert not layer.weight[~mask].any()
    assert (layer.weight != before)[mask].all()
