"""Masks prune exactly the lowest scores, over all layers and in each layer."""

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils import prune

from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.allocation import by_glob, erk, uniform
from lit_prune.functional.criteria import RandomScore, lamp
from lit_prune.functional.masking import apply_masks
from lit_prune.functional.pruning import check_room, compute_masks
from lit_prune.functional.structure import NM

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask

DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@st.composite
def models(draw: st.DrawFn, dtypes: list[torch.dtype] = DTYPES) -> nn.Sequential:
    """Models of one to four layers of random shapes and a random dtype, in either memory format."""
    torch.manual_seed(draw(st.integers(0, 2**31)))
    model = nn.Sequential()
    for _ in range(draw(st.integers(1, 4))):
        a, b, k = draw(st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 3)))
        model.append(nn.Conv2d(a, b, k) if draw(st.booleans()) else nn.Linear(a, b))
    model.to(draw(st.sampled_from(dtypes)))
    if draw(st.booleans()):
        model.to(memory_format=torch.channels_last)
    if draw(st.booleans()):  # many ties
        for ref in weight_layers(model):
            ref.tensor.data = (ref.tensor.data * 8).round()
    return model


random_masks = partial(compute_masks, criterion="random")
uniform_masks = partial(compute_masks, allocation="uniform")

AMOUNTS = st.floats(0, 1, exclude_max=True)


def quietly(function: Callable[..., dict[str, Tensor]], *args: Any, **options: Any) -> dict[str, Tensor]:
    """Call without the warning about layers that become zero, which is frequent in small random models."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Layers? .* about to become entirely zero")
        return function(*args, **options)


def flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


@settings(max_examples=60, deadline=None)
@given(models(), AMOUNTS)
def test_counts_are_exact_and_kept_magnitudes_are_at_least_the_pruned_ones(model: nn.Sequential, amount: float) -> None:
    weights = weight_layers(model)
    before = [ref.tensor.detach().clone() for ref in weights]
    masks = quietly(compute_masks, weights, amount)
    kept = flat([masks[ref.name] for ref in weights])
    magnitudes = flat([tensor.double().abs() for tensor in before])
    assert int((~kept).sum()) == round(amount * len(kept))
    if kept.any() and not kept.all():
        assert magnitudes[kept].min() >= magnitudes[~kept].max()
        # ties are broken by the order of the layers and their elements
        threshold = magnitudes[~kept].max()
        tied = kept[magnitudes == threshold]
        assert torch.equal(tied, tied.sort().values)
    assert all(torch.equal(ref.tensor, old) for ref, old in zip(weights, before, strict=True))


@settings(max_examples=40, deadline=None)
@given(models(), st.lists(AMOUNTS, min_size=2, max_size=4), st.booleans())
def test_masks_only_shrink(model: nn.Sequential, amounts: list[float], at_random: bool) -> None:
    weights = weight_layers(model)
    total = sum(ref.tensor.numel() for ref in weights)
    kept = torch.ones(total, dtype=torch.bool)
    most = 0
    for amount in amounts:
        masks = quietly(random_masks if at_random else compute_masks, weights, amount)
        apply_masks(model, masks)
        now = flat([masks[ref.name] for ref in weights])
        assert not (now & ~kept).any()
        most = max(most, round(amount * total))
        assert int((~now).sum()) == most
        kept = now
        for ref in weights:  # training changes the kept weights
            ref.tensor.data += current_mask(ref) * torch.randn_like(ref.tensor)


@settings(max_examples=60, deadline=None)
@given(models(), AMOUNTS, st.booleans())
def test_local_masks_prune_the_exact_fraction_of_each_layer(model: nn.Sequential, amount: float, again: bool) -> None:
    weights = weight_layers(model)
    left = {ref.name: torch.ones_like(ref.tensor, dtype=torch.bool) for ref in weights}
    if again:  # weights that are pruned already count
        left = quietly(random_masks, weights, amount / 2)
        apply_masks(model, left)
    before = {ref.name: ref.tensor.detach().clone() for ref in weights}
    masks = quietly(uniform_masks, weights, amount)
    for ref in weights:
        assert torch.equal(ref.tensor, before[ref.name])
        kept, pruned = masks[ref.name], left[ref.name] & ~masks[ref.name]
        assert not (kept & ~left[ref.name]).any()
        had = int((~left[ref.name]).sum())
        assert int((~kept).sum()) == max(had, round(amount * kept.numel()))
        if kept.any() and pruned.any():
            magnitudes = before[ref.name].double().abs()
            assert magnitudes[kept].min() >= magnitudes[pruned].max()
            # ties are broken by the order of the elements
            tied = kept[(magnitudes == magnitudes[pruned].max()) & left[ref.name]]
            assert torch.equal(tied, tied.sort().values)


@settings(max_examples=20, deadline=None)
@given(models([torch.float32, torch.float64]), AMOUNTS)
def test_local_masks_are_those_of_torch(model: nn.Sequential, amount: float) -> None:
    weights = weight_layers(model)
    for ref in weights:  # distinct magnitudes and a layout that torch can flatten
        ref.tensor.data = torch.randn_like(ref.tensor).contiguous()
    masks = quietly(uniform_masks, weights, amount)
    for ref in weights:
        prune.l1_unstructured(ref.module, "weight", amount)
        assert torch.equal(masks[ref.name], current_mask(ref))


@settings(max_examples=30, deadline=None)
@given(models([torch.float32, torch.float64]), AMOUNTS)
def test_global_masks_are_those_of_torch(model: nn.Sequential, amount: float) -> None:
    weights = weight_layers(model)
    for ref in weights:  # distinct magnitudes and a layout that torch can flatten
        ref.tensor.data = torch.randn_like(ref.tensor).contiguous()
    masks = quietly(compute_masks, weights, amount)
    layers = [(ref.module, "weight") for ref in weights]
    prune.global_unstructured(layers, pruning_method=prune.L1Unstructured, amount=amount)
    for ref in weights:
        assert torch.equal(masks[ref.name], current_mask(ref))


@settings(max_examples=40, deadline=None)
@given(models(), AMOUNTS, st.floats(0.05, 1))
def test_max_layer_sparsity_limits_each_layer_and_prunes_the_rest_elsewhere(
    model: nn.Sequential, amount: float, cap: float
) -> None:
    weights = weight_layers(model)
    sizes = [ref.tensor.numel() for ref in weights]
    wanted = round(amount * sum(sizes))
    room = [int(cap * size) for size in sizes]
    # `test_a_layer_can_be_pruned_to_its_limit` is about limits that miss a number of weights by a rounding error
    assume(all(cap * size == round(cap * size) or abs(cap * size - round(cap * size)) > 1e-5 for size in sizes))
    if wanted > sum(room):
        with pytest.raises(InputError, match="Expected `max_layer_sparsity` to leave room for an `amount` of"):
            compute_masks(weights, amount, max_layer_sparsity=cap)
        return
    masks = quietly(compute_masks, weights, amount, max_layer_sparsity=cap)
    gone = [int((~masks[ref.name]).sum()) for ref in weights]
    assert sum(gone) == wanted
    assert all(count <= most for count, most in zip(gone, room, strict=True))
    # only layers at their limit keep weights that are smaller than a pruned one
    open_layers = [ref for ref, count, most in zip(weights, gone, room, strict=True) if count < most]
    if open_layers and wanted:
        least_kept = min(
            (
                float(ref.tensor.detach().double().abs()[masks[ref.name]].min())
                for ref in open_layers
                if masks[ref.name].any()
            ),
            default=float("inf"),
        )
        for ref in weights:
            if not masks[ref.name].all():
                assert float(ref.tensor.detach().double().abs()[~masks[ref.name]].max()) <= least_kept


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("make", [compute_masks, random_masks, uniform_masks])
def test_nan_and_inf_weights_are_refused_by_name(bad: float, dtype: torch.dtype, make: Any) -> None:
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).to(dtype)
    model[1].weight.data[1, 2] = bad
    with pytest.raises(InputError, match="weight of layer `1` to be finite, but got NaN or infinity"):
        make(weight_layers(model), 0.5)


@pytest.mark.parametrize("make", [compute_masks, uniform_masks])
def test_an_empty_selection_is_refused(make: Any) -> None:
    with pytest.raises(InputError, match="at least one weight to prune, but got none"):
        make([], 0.5)


@pytest.mark.parametrize("make", [compute_masks, uniform_masks])
@pytest.mark.parametrize("amount", [-0.1, 1.0, 1.5, float("nan"), "a", True, None])
def test_bad_amounts_are_refused(amount: Any, make: Any) -> None:
    with pytest.raises(InputError, match=rf"`amount` in \[0, 1\), but got {amount}\."):
        make(weight_layers(nn.Linear(3, 4)), amount)


@given(st.integers(1, 400), st.integers(1, 100))
@example(100, 29)
@settings(max_examples=200, deadline=None)
def test_a_layer_can_be_pruned_to_its_limit(size: int, percent: int) -> None:
    """0.29 * 100 is slightly less than 29."""
    weights, most = weight_layers(nn.Linear(size, 1)), percent * size // 100
    check_room(weights, most / size, percent / 100)
    if most < size:
        assert int((~compute_masks(weights, most / size, max_layer_sparsity=percent / 100)[""]).sum()) == most


@given(st.floats(0, 0.9), st.integers(1, 3), st.sampled_from([erk, uniform, partial(by_glob, {"1": 0.7})]))
@example(0.4, 2, erk)
@settings(deadline=None, max_examples=60)
def test_what_n_of_m_leave_no_room_for_is_refused_before_training(amount: float, n: int, allocation: Any) -> None:
    """It is refused exactly if computing the masks would raise the error."""
    weights = weight_layers(nn.Sequential(nn.Linear(12, 7), nn.Conv2d(8, 16, 3), nn.Linear(64, 64)))
    structure, possible = NM(n, 4), True
    try:
        quietly(compute_masks, weights, amount, "l2", structure, allocation)
    except InputError:
        possible = False
    with nullcontext() if possible else pytest.raises(InputError, match="no layer with more than"):
        check_room(weights, amount, None, structure, allocation)


@pytest.mark.parametrize("cap", [0, -1, 1.1, float("nan"), "a", True])
def test_bad_limits_are_refused(cap: Any) -> None:
    with pytest.raises(InputError, match=r"^Expected `max_layer_sparsity` in \(0, 1\], but got "):
        compute_masks(weight_layers(nn.Linear(3, 4)), 0.1, max_layer_sparsity=cap)


def test_a_warning_names_a_layer_that_is_about_to_become_zero() -> None:
    model: Any = nn.Sequential(nn.Linear(2, 2), nn.Linear(4, 4))
    model[0].weight.data.fill_(1e-6)
    with pytest.warns(UserWarning, match=r"^Layer `0` is about to become entirely zero"):
        masks = compute_masks(weight_layers(model), 0.5)
    apply_masks(model, masks)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is zero already
        compute_masks(weight_layers(model), 0.6)


def test_one_warning_names_all_layers_that_are_about_to_become_zero() -> None:
    model: Any = nn.Sequential(*(nn.Linear(2, 2) for _ in range(5)), nn.Linear(10, 10))
    for layer in model[:5]:
        layer.weight.data.zero_()
    named = "^Layers `0`, `1`, `2` and 2 more are about .* their outputs .* HINT: .* leave such a layer out"
    with pytest.warns(UserWarning, match=named) as found:
        compute_masks(weight_layers(model), 0.2)
    assert len(found) == 1


def test_local_masks_warn_of_a_layer_that_is_about_to_become_zero() -> None:
    model = nn.Sequential(nn.Linear(1, 1), nn.Linear(4, 4))
    with pytest.warns(UserWarning, match=r"^Layer `0` is about .* HINT: leave such a layer out with `exclude`\.$"):
        uniform_masks(weight_layers(model), 0.6)


def test_random_masks_depend_only_on_the_seed_and_keep_the_random_state() -> None:
    weights = weight_layers(nn.Sequential(nn.Linear(20, 30), nn.Linear(30, 20)))
    state = torch.get_rng_state()
    first = compute_masks(weights, 0.5, RandomScore(1))
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(3)
    again = compute_masks(weights, 0.5, RandomScore(1))
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            elsewhere = compute_masks(weights, 0.5, RandomScore(1))
    finally:
        torch.set_default_dtype(torch.float32)
    other = compute_masks(weights, 0.5, RandomScore(2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert all(torch.equal(first[name], elsewhere[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    # not by magnitude
    assert not torch.equal(first["0"], compute_masks(weights, 0.5)["0"])


@pytest.mark.parametrize("make", [compute_masks, uniform_masks])
def test_scores_are_checked(make: Any) -> None:
    weights = weight_layers(nn.Linear(2, 2))
    with pytest.raises(InputError, match=r"^Expected finite scores for layer ``, but got NaN or infinity."):
        make(weights, 0.5, lambda tensors: [tensor * torch.nan for tensor in tensors])
    with pytest.raises(InputError, match=r"^Expected scores of shape \(2, 2\) for layer ``, but got \(2,\)."):
        make(weights, 0.5, lambda tensors: [tensor[0] for tensor in tensors])
    with pytest.raises(InputError, match=r"^Expected scores of shape \(2, 2\) for layer ``, but got None."):
        make(weights, 0.5, lambda tensors: [])
    with pytest.raises(InputError, match=r"^Expected scores for 1 weights, but got more."):
        make(weights, 0.5, lambda tensors: [*tensors, *tensors])
    with pytest.raises(InputError, match=r"^Expected a tensor of scores for each weight, but got None."):
        make(weights, 0.5, lambda tensors: None)


@pytest.mark.parametrize("make", [compute_masks, uniform_masks])
@pytest.mark.parametrize("score", [RandomScore(0), lambda tensors: tensors])
def test_custom_scores_do_not_change_the_weights(score: Any, make: Any) -> None:
    model = nn.Linear(30, 30)
    before = model.weight.detach().clone()
    masks = make(weight_layers(model), 0.25, score)
    assert torch.equal(model.weight, before)
    assert int((~masks[""]).sum()) == 225


@pytest.mark.parametrize("make", [compute_masks, uniform_masks])
def test_scores_may_read_the_gradient(make: Any) -> None:
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    model(torch.randn(3, 6)).square().sum().backward()
    weights = weight_layers(model)
    salience = [(ref.tensor * ref.tensor.grad).abs().detach() for ref in weights]
    masks = make(weights, 0.5, lambda tensors: ((tensor * tensor.grad).abs() for tensor in tensors))
    pairs = [(values, masks[ref.name]) for ref, values in zip(weights, salience, strict=True)]
    if make is compute_masks:
        pairs = [(flat(salience), flat([masks[ref.name] for ref in weights]))]
    for values, kept in pairs:
        assert int((~kept).sum()) == kept.numel() // 2
        assert values[kept].min() >= values[~kept].max()
    assert all(not mask.requires_grad for mask in masks.values())


def test_counts_are_exact_for_many_weights() -> None:
    weights = weight_layers(nn.Linear(700, 900))
    for amount in (1e-6, 0.01, 0.5, 0.99, 0.999999):
        masks = compute_masks(weights, amount)
        assert int((~masks[""]).sum()) == round(amount * 630_000)


@given(st.integers(0, 2**31), st.floats(0.3, 0.4))
@settings(deadline=None, max_examples=20)
def test_parts_can_be_given_by_name(seed: int, amount: float) -> None:
    torch.manual_seed(seed)
    weights = weight_layers(nn.Sequential(nn.Conv2d(8, 16, 3), nn.Linear(12, 7)))
    named = quietly(compute_masks, weights, amount, "lamp", "2:4", "erk")
    built = quietly(compute_masks, weights, amount, lamp, NM(2, 4), erk)
    plain = quietly(compute_masks, weights, amount, lamp, None, None)
    assert all(torch.equal(mask, built[name]) for name, mask in named.items())
    assert not all(torch.equal(mask, plain[name]) for name, mask in named.items())
    assert all((NM(2, 4).fold(mask).sum(1) >= 2).all() for mask in named.values())


@pytest.mark.parametrize("parts", [("fisher",), ("none",), ("l2", "3:2"), ("l2", "2:4", "even")])
def test_unknown_parts_and_criteria_that_need_data_are_refused(parts: Any) -> None:
    with pytest.raises(InputError, match=r"call its `measure`|^Expected `(criterion|structure|allocation)` to be"):
        compute_masks(weight_layers(nn.Linear(4, 4)), 0.5, *parts)


def test_a_limit_that_leaves_no_room_is_refused_with_any_allocation() -> None:
    weights = weight_layers(nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 6)))
    for allocation in ("global", "erk"):
        with pytest.raises(InputError, match="`max_layer_sparsity` to leave room for an `amount`"):
            compute_masks(weights, 0.9, allocation=allocation, max_layer_sparsity=0.6)
