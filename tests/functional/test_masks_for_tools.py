"""Tools that look at types, names, hooks and parameters of layers find masked layers as they left them."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jacrev, stack_module_state, vmap
from torch.nn.utils import parametrizations, prune

from lit_prune.errors import InputError
from lit_prune.functional import selection
from lit_prune.functional.masking import apply_masks, hold_masks, mask_weights, masked_parameters, remove_masks
from lit_prune.functional.pruning import compute_masks

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers


def net() -> Any:
    return nn.Sequential(nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 3))


def masked(model: Any = None, amount: float = 0.5) -> Any:
    model = net() if model is None else model
    apply_masks(model, compute_masks(weight_layers(model), amount))
    return model


def images() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def zeros(model: nn.Module) -> dict[str, Tensor]:
    return {ref.name: ref.tensor == 0 for ref in weight_layers(model)}


# types

quiet = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
quantization: Any = torch.ao.quantization


@quiet
@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        (net, {nn.Linear}),
        (lambda: nn.Sequential(nn.Linear(8, 8), nn.GRUCell(8, 8)), {nn.Linear, nn.GRUCell}),
        (lambda: nn.Sequential(nn.LSTM(8, 8, num_layers=2)), {nn.LSTM}),
    ],
)
def test_dynamic_quantization_converts_every_masked_layer(model: Callable[[], Any], kinds: Any) -> None:
    pruned = masked(model()).eval()
    converted = quantization.quantize_dynamic(pruned, kinds, dtype=torch.qint8)
    for before, after in zip(pruned, converted, strict=True):
        assert ("quantized" in type(after).__module__) == (type(before) in kinds)
    for name, pruned_away in zeros(pruned).items():
        if isinstance(layer := converted.get_submodule(name.split(".")[0]), torch.ao.nn.quantized.dynamic.Linear):
            assert not layer.weight().dequantize()[pruned_away].any()
    mask_weights(converted)  # whose layers have no parameters any more
    remove_masks(converted)
    assert not prune.is_pruned(converted)


@quiet
def test_training_for_quantization_keeps_masks() -> None:
    model = masked(nn.Sequential(quantization.QuantStub(), net(), quantization.DeQuantStub()))
    model.qconfig = quantization.get_default_qat_qconfig("x86")
    prepared = quantization.prepare_qat(model.train())
    assert [type(layer).__name__ for layer in prepared[1]] == ["Linear", "Tanh", "Linear"]
    assert type(prepared[1][0]) is torch.ao.nn.qat.Linear
    before = zeros(prepared)
    optimizer = torch.optim.Adam(prepared.parameters(), 0.1)
    hold_masks(prepared, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        prepared(torch.randn(5, 16)).square().sum().backward()
        optimizer.step()
    after = zeros(prepared)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert sum(int(found.sum()) for found in after.values()) == round(0.5 * (16 * 12 + 12 * 3))
    converted = quantization.convert(prepared.eval())
    assert type(converted[1][0]) is torch.ao.nn.quantized.Linear
    assert not converted[1][0].weight().dequantize()[after["1.0"]].any()


class OwnLinear(nn.Linear):
    """A subclass, as other libraries write them."""


def test_types_and_instances_are_unchanged() -> None:
    model = masked(nn.Sequential(nn.Conv2d(3, 3, 1), OwnLinear(4, 4), nn.LSTM(4, 4), nn.MultiheadAttention(4, 2)))
    assert [type(layer) for layer in model] == [nn.Conv2d, OwnLinear, nn.LSTM, nn.MultiheadAttention]
    assert type(model[1].weight) is nn.Parameter
    handlers = {nn.Conv2d: "convolution", OwnLinear: "own", nn.LSTM: "recurrent", nn.MultiheadAttention: "attention"}
    assert [handlers[type(layer)] for layer in model] == ["convolution", "own", "recurrent", "attention"]


# hooks


def test_hooks_of_others_stay_and_run_in_their_order() -> None:
    model, calls = net(), list[str]()
    layer = model[0]
    kept = layer.register_forward_pre_hook(lambda *_: calls.append("pre"))
    layer.register_forward_hook(lambda *_: calls.append("post"))
    layer.register_full_backward_hook(lambda *_: calls.append("backward"))
    layer.weight.register_hook(lambda gradient: calls.append("gradient"))
    layer.weight.register_post_accumulate_grad_hook(lambda _: calls.append("accumulated"))
    masked(model)
    later = layer.register_forward_pre_hook(lambda *_: calls.append("later"))
    model(torch.randn(2, 16, requires_grad=True)).sum().backward()
    expected = ["pre", "later", "post", "backward", "gradient", "accumulated"]
    assert sorted(calls) == sorted(expected)
    assert calls[:3] == expected[:3]
    later.remove()
    remove_masks(model)
    calls.clear()
    model(torch.randn(2, 16, requires_grad=True)).sum().backward()
    assert calls[:2] == ["pre", "post"]
    kept.remove()
    assert not layer._forward_pre_hooks


def test_activations_and_gradients_are_recorded_by_hooks() -> None:
    model, seen = masked(), dict[str, Tensor]()
    model[0].register_forward_hook(lambda layer, inputs, output: seen.update(output=output))
    model[0].register_full_backward_hook(lambda layer, inputs, outputs: seen.update(gradient=outputs[0]))
    batch = torch.randn(2, 16, requires_grad=True)
    model(batch).sum().backward()
    assert torch.equal(seen["output"], model[0](batch))
    assert seen["gradient"].abs().sum() > 0


# graphs


def test_graphs_are_traced_with_and_without_masks() -> None:
    model, batch = masked(), torch.randn(2, 16)
    traced = torch.fx.symbolic_trace(model)
    assert [node.target for node in traced.graph.nodes if node.op == "call_module"] == ["0", "1", "2"]
    assert torch.equal(traced(batch), model(batch))
    assert traced.get_submodule("0") is model[0]
    exported = torch.export.export(model, (batch,))
    assert set(exported.state_dict) == set(net().state_dict())
    torch.testing.assert_close(exported.module()(batch), model(batch))


@quiet
@pytest.mark.parametrize("by_torch", [True, False])
def test_models_without_masks_become_torchscript(by_torch: bool) -> None:
    model, batch = masked(), torch.randn(2, 16)
    before = zeros(model)
    assert torch.equal(torch.jit.trace(model, batch)(batch), model(batch))
    if by_torch:
        prune.remove(model[0], "weight")
        prune.remove(model[2], "weight")
    else:
        remove_masks(model)
    for module in (torch.jit.script(model), torch.jit.trace(model, batch)):
        assert torch.equal(module(batch), model(batch))
        for name, pruned in before.items():
            assert torch.equal(dict(module.named_parameters())[f"{name}.weight"] == 0, pruned)


def test_batch_norms_are_folded_into_masked_convolutions() -> None:
    model = masked(images()).eval()
    folded = nn.utils.fuse_conv_bn_eval(model[0], model[1])
    batch = torch.randn(2, 3, 4, 4)
    torch.testing.assert_close(folded(batch), model[1](model[0](batch)))
    assert torch.equal(folded.weight == 0, model[0].weight == 0)


# functions


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_model_computes_with_the_weights_that_it_is_given(dtype: torch.dtype) -> None:
    model, batch = masked(net().to(dtype)), torch.randn(5, 16, dtype=dtype)
    own = {name: value.detach().clone() for name, value in model.named_parameters()}
    given = {name: torch.randn_like(value).requires_grad_() for name, value in own.items()}
    handed = dict(given)
    other = net().to(dtype)
    other.load_state_dict(given)
    out = functional_call(model, handed, (batch,))
    assert torch.equal(out, other(batch))
    assert all(handed[name] is given[name] for name in given)
    gradients = torch.autograd.grad(out.sum(), list(given.values()))
    expected = torch.autograd.grad(other(batch).sum(), list(other.parameters()))
    assert all(torch.equal(mine, theirs) for mine, theirs in zip(gradients, expected, strict=True))
    assert all(torch.equal(value, own[name]) for name, value in model.named_parameters())


def test_ensembles_are_computed_together() -> None:
    models = [masked(amount=0.3 + 0.2 * i) for i in range(3)]
    batch = torch.randn(5, 16)
    parameters, buffers = stack_module_state(models)
    for base in (copy.deepcopy(models[0]), net().to("meta")):

        def compute(parameters: Any, buffers: Any, batch: Tensor, base: Any = base) -> Any:
            return functional_call(base, (parameters, buffers), (batch,))

        out = vmap(compute, in_dims=(0, 0, None))(parameters, buffers, batch)
        torch.testing.assert_close(out, torch.stack([model(batch) for model in models]))


def test_gradients_of_single_samples_add_up() -> None:
    model, batch = masked(), torch.randn(5, 16)
    parameters = {name: value.detach() for name, value in model.named_parameters()}

    def loss(parameters: Any, sample: Tensor) -> Any:
        return functional_call(model, parameters, (sample[None],)).square().sum()

    gradients = vmap(grad(loss), in_dims=(None, 0))(parameters, batch)
    model(batch).square().sum().backward()
    for name, value in model.named_parameters():
        assert gradients[name].shape == (5, *value.shape)
        torch.testing.assert_close(gradients[name].sum(0), value.grad)


def test_jacobians_agree_with_those_of_an_unmasked_model() -> None:
    model, plain, sample = masked(), net(), torch.randn(16)
    plain.load_state_dict(model.state_dict())
    jacobians = []
    for one in (model, plain):
        parameters = {name: value.detach() for name, value in one.named_parameters()}
        jacobians.append(jacrev(lambda given, one=one: functional_call(one, given, (sample,)))(parameters))
    for name, jacobian in jacobians[0].items():
        assert torch.equal(jacobian, jacobians[1][name])
        assert jacobian.shape == (3, *model.get_parameter(name).shape)


# what others make of parameters


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.SparseAdam])
def test_sparse_gradients_of_embeddings(optimizer: Any) -> None:
    model = nn.EmbeddingBag(20, 4, sparse=True, mode="sum")
    mask = torch.rand(20, 4) > 0.5
    apply_masks(model, {"": mask})
    before = model.weight.detach().clone()
    used = optimizer(model.parameters(), 0.1)
    hold_masks(model, used)
    tokens = torch.tensor([[1, 2, 2], [5, 1, 19]])
    for _ in range(3):
        used.zero_grad()
        (model(tokens) * torch.randn(2, 4)).sum().backward()
        assert model.weight.grad is not None
        assert model.weight.grad.is_sparse
        used.step()
    assert not model.weight[~mask].any()
    rows = torch.isin(torch.arange(20), tokens)
    assert torch.equal(model.weight[~rows], before[~rows])
    assert ((model.weight != before) == mask)[rows].all()


@pytest.mark.parametrize(
    "change",
    [
        lambda layer: parametrizations.weight_norm(layer),
        lambda layer: parametrizations.orthogonal(layer),
        lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", nn.Identity()),
        lambda layer: nn.utils.spectral_norm(layer),
    ],
)
@quiet
def test_masked_weights_that_become_computed_are_refused(change: Any) -> None:
    model = masked()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    hold_masks(model, optimizer)
    change(model[0])
    model(torch.randn(2, 16)).sum().backward()
    with pytest.raises(
        InputError, match=r"the masked `weight` of .*Linear to stay a parameter, but got one that is comp"
    ):
        optimizer.step()
    # the hint of the message
    model = masked()
    remove_masks(model)
    change(model[0])
    mask_weights(model)


def test_a_parameter_that_is_replaced_is_masked_like_the_old_one() -> None:
    model = masked()
    before = zeros(model)
    for dtype in (torch.float32, torch.float64):
        model.to(dtype)
        model[0].weight = nn.Parameter(torch.randn(12, 16, dtype=dtype))
        model.load_state_dict(net().to(dtype).state_dict(), assign=True)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        hold_masks(model, optimizer)
        model(torch.randn(2, 16, dtype=dtype)).sum().backward()
        optimizer.step()
        after = zeros(model)
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert [masked_parameters(layer) for layer in model] == [["weight"], [], ["weight"]]
