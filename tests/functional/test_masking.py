"""Masked layers work like those of `torch.nn.utils.prune`, and can also be copied, saved and compiled."""

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
from lit_prune.functional.masking import apply_masks, remove_masks
from lit_prune.functional.pruning import global_l1_masks

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
prune: Any = utils.prune


def net() -> Any:
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 4))


def images() -> Tensor:
    return torch.randn(5, 3, 4, 4)


def masked(amount: float = 0.5) -> Any:
    model = net()
    apply_masks(model, global_l1_masks(weight_layers(model), amount))
    return model


def zeros(model: Any) -> int:
    return sum(int((ref.module.weight == 0).sum()) for ref in weight_layers(model))


def test_masked_layers_agree_with_those_of_torch() -> None:
    model, plain = net(), net()
    plain.load_state_dict(model.state_dict())
    masks = global_l1_masks(weight_layers(model), 0.5)
    apply_masks(model, masks)
    assert prune.is_pruned(model)
    for index in (0, 3):
        prune.custom_from_mask(plain[index], "weight", masks[str(index)])
        assert torch.equal(model[index].weight, plain[index].weight)
        assert torch.equal(model[index].weight_mask, plain[index].weight_mask.float())
    batch = images()
    assert torch.equal(model(batch), plain(batch))
    model(batch).sum().backward()
    plain(batch).sum().backward()
    for mine, theirs in zip(
        model.parameters(), (p for _, p in sorted(plain.named_parameters(), key=order)), strict=True
    ):
        assert torch.equal(mine.grad, theirs.grad)


def order(item: tuple[str, Any]) -> tuple[str, bool]:
    """Sort a weight before its bias, because torch moves masked weights behind it."""
    return item[0].split(".")[0], "bias" in item[0]


@pytest.mark.parametrize("by_torch", [True, False])
def test_removal_restores_class_order_and_identity(by_torch: bool) -> None:
    model = net()
    parameters, classes = list(model.parameters()), [type(module) for module in model]
    apply_masks(model, global_l1_masks(weight_layers(model), 0.5))
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [name for name, _ in model.named_parameters()] == ["0.weight_orig", "0.bias", "3.weight_orig", "3.bias"]
    effective = [model[0].weight.detach().clone(), model[3].weight.detach().clone()]
    if by_torch:
        prune.remove(model[0], "weight")
        prune.remove(model[3], "weight")
    else:
        assert remove_masks(model) == ["0.weight", "3.weight"]
    assert not prune.is_pruned(model)
    assert [type(module) for module in model] == classes
    assert all(a is b for a, b in zip(model.parameters(), parameters, strict=True))
    assert [name for name, _ in model.named_parameters()] == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert not list(model.buffers())
    assert torch.equal(model[0].weight, effective[0])
    assert torch.equal(model[3].weight, effective[1])


def test_other_methods_of_torch_may_be_applied_on_top() -> None:
    model = masked()
    before = zeros(model)
    prune.l1_unstructured(model[0], "weight", amount=10)
    prune.random_unstructured(model[0], "bias", amount=2)
    assert zeros(model) == before + 10
    model(images()).sum().backward()
    assert torch.equal(model[0].weight_orig.grad != 0, model[0].weight_orig.grad * model[0].weight_mask != 0)
    copy.deepcopy(model[3])
    state = model[0].state_dict()
    assert int((state["weight"] == 0).sum()) == int((model[0].weight == 0).sum())
    # masking again makes the masks of torch permanent and replaces them
    masks = {ref.name: ref.module.weight_mask.bool() for ref in weight_layers(model)}
    apply_masks(model, masks)
    assert zeros(model) == before + 10
    assert set(remove_masks(model)) == {"0.bias", "0.weight", "3.weight"}
    assert zeros(model) == before + 10
    assert not prune.is_pruned(model)


def test_torch_removes_its_mask_and_ours() -> None:
    model = masked()
    prune.l1_unstructured(model[0], "weight", amount=10)
    before = zeros(model)
    prune.remove(model[0], "weight")
    assert type(model[0]) is nn.Conv2d
    assert zeros(model) == before
    assert isinstance(model[0].weight, nn.Parameter)


def test_masks_of_torch_are_made_permanent() -> None:
    model = net()
    prune.global_unstructured([(model[0], "weight"), (model[3], "weight")], prune.L1Unstructured, amount=0.3)
    model(images())
    apply_masks(model, global_l1_masks(weight_layers(model), 0.6))
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
def test_loaded_weights_are_those_of_the_file(assign: bool) -> None:
    batch = images()
    for source in (net(), masked(0.2), masked(0.9)):
        model = masked(0.5)
        kept = model[0].weight_mask.bool()
        file = copy.deepcopy(source.state_dict())
        model.load_state_dict(file, assign=assign)
        assert torch.equal(model(batch), source(batch))
        assert prune.is_pruned(model)
        # weights that are zero in the file stay masked
        loaded = file["0.weight"] != 0
        assert torch.equal(model[0].weight_mask.bool(), kept | loaded)
        assert torch.equal(source.state_dict()["0.weight"], file["0.weight"])


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
    assert [ref.name for ref in weights] == ["out_proj"]
    apply_masks(attention, global_l1_masks(weights, 0.5))
    tokens = torch.randn(3, 5, 8)
    optimizer = torch.optim.SGD(attention.parameters(), lr=1.0)
    first = attention(tokens, tokens, tokens)[0]
    first.square().sum().backward()
    optimizer.step()
    assert not torch.equal(attention(tokens, tokens, tokens)[0], first)
    assert int((attention.out_proj.weight == 0).sum()) == 32


def test_the_fast_path_of_a_transformer_uses_the_masks() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, dropout=0.0)
    apply_masks(layer, global_l1_masks(weight_layers(layer), 0.5))
    tokens = torch.randn(3, 5, 8)
    slow = layer(tokens)
    with torch.no_grad():
        for ref in weight_layers(layer):
            ref.tensor.add_((ref.module.weight_mask == 0).float())  # drift behind the mask
        assert torch.allclose(layer.eval()(tokens), slow, atol=1e-6)


def test_tied_weights_are_masked_in_every_layer() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    assert [ref.name for ref in weight_layers(model)] == ["0"]
    apply_masks(model, global_l1_masks(weight_layers(model), 0.5))
    assert torch.equal(model[0].weight, model[1].weight)
    assert model[0].weight_orig is model[1].weight_orig
    model(torch.randn(3, 4)).sum().backward()
    assert not model[0].weight_orig.grad[model[0].weight_mask == 0].any()
    remove_masks(model)
    assert model[0].weight is model[1].weight


def test_channels_last_is_kept() -> None:
    model = net().to(memory_format=torch.channels_last)
    apply_masks(model, global_l1_masks(weight_layers(model), 0.5))
    for tensor in (model[0].weight, model[0].weight_orig, model[0].weight_mask, model.state_dict()["0.weight"]):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    remove_masks(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_masked_model_can_change_its_dtype(dtype: torch.dtype) -> None:
    model = masked().to(dtype)
    assert model[0].weight.dtype == dtype
    assert zeros(model) == zeros(masked())


def test_masking_again_and_again_takes_no_more_memory() -> None:
    model = nn.Sequential(nn.Linear(64, 64))

    def tensors() -> int:
        gc.collect()
        return sum(tensor.numel() for tensor in gc.get_objects() if type(tensor) in (Tensor, nn.Parameter))

    apply_masks(model, global_l1_masks(weight_layers(model), 0.01))
    mask, before = model[0].weight_mask, tensors()
    for event in range(2, 42):
        apply_masks(model, global_l1_masks(weight_layers(model), event / 100))
    assert model[0].weight_mask is mask
    assert tensors() == before
    assert len(pickle.dumps(model)) < 2 * 64 * 64 * 4 + 4000
    assert len(model[0]._forward_pre_hooks) == 1


@pytest.mark.parametrize("backend", ["eager", "aot_eager", "inductor"])
def test_compiled_models_agree_with_eager_ones(backend: str) -> None:
    batch = images()
    for compile_first in (True, False):
        torch._dynamo.reset()
        model = net()
        if not compile_first:
            apply_masks(model, global_l1_masks(weight_layers(model), 0.2))
        compiled = torch.compile(model, backend=backend)
        for amount in (0.0, 0.3, 0.7):
            apply_masks(model, global_l1_masks(weight_layers(model), amount))
            model.zero_grad()
            expected = model(batch)
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
