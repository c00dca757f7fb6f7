"""Structures: which weights are pruned together."""

import re
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from lit_prune.errors import InputError
from lit_prune.functional import selection
from lit_prune.functional.masking import apply_masks
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.structure import NM, Block, Channel, Kernel, Structure, make_structure, unfold

# typed as Any, because mypy does not know which modules a model contains
weight_layers: Any = selection.weight_layers

STRUCTURES: dict[str, Structure] = {"kernel": Kernel(), "channel": Channel(), "block": Block(2, 3), "2:4": NM(2, 4)}
GROUPED = ["kernel", "channel", "block"]


class Columns:
    """A structure of one's own: all weights that read the same input channel."""

    def fold(self, weight: Tensor) -> Tensor:
        return weight.transpose(0, 1).flatten(1)

    def fits(self, shape: Sequence[int]) -> bool:
        return len(shape) > 1


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(12, 8, 3), nn.Conv2d(8, 12, 1), nn.Linear(12, 4))


def fitting(model: nn.Module, structure: Structure) -> Any:
    return [ref for ref in weight_layers(model) if structure.fits(ref.tensor.shape)]


@given(st.lists(st.integers(1, 4), min_size=2, max_size=4), st.sampled_from([*STRUCTURES.values(), Columns()]))
def test_unfolding_undoes_folding(factors: list[int], structure: Structure) -> None:
    shape = torch.Size([2 * factors[0], 12 * factors[1], *factors[2:]])
    assert structure.fits(shape)
    weight = torch.rand(shape)
    folded = structure.fold(weight)
    assert folded.dim() == 2
    assert torch.equal(unfold(structure, folded, weight), weight)


def test_groups_are_those_of_the_description() -> None:
    weight = torch.arange(2 * 12 * 2 * 3).view(2, 12, 2, 3)
    assert torch.equal(Kernel().fold(weight), weight.view(24, 6))
    assert torch.equal(Channel().fold(weight), weight.view(2, 72))
    kernels = {tuple(row) for row in Block(2, 3).fold(weight).tolist()}
    assert kernels == {
        tuple(weight[:, c : c + 3, y, x].flatten().tolist()) for c in (0, 3, 6, 9) for y in range(2) for x in range(3)
    }
    groups = {tuple(row) for row in NM(2, 4).fold(weight).tolist()}
    assert groups == {
        tuple(weight[o, c : c + 4, y, x].tolist())
        for o in range(2)
        for c in (0, 4, 8)
        for y in range(2)
        for x in range(3)
    }
    linear = torch.arange(24).view(2, 12)
    assert torch.equal(Kernel().fold(linear), linear.view(24, 1))
    assert torch.equal(NM(2, 4).fold(linear), linear.view(6, 4))


@pytest.mark.filterwarnings("ignore:Layers? .* entirely zero")
@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.9), st.sampled_from([*GROUPED, "columns"]), st.booleans())
def test_whole_groups_of_the_lowest_means_are_pruned(seed: int, amount: float, kind: str, uniform: bool) -> None:
    structure = STRUCTURES.get(kind, Columns())
    weights = fitting(network(seed), structure)
    masks = compute_masks(weights, amount, structure=structure, allocation="uniform" if uniform else "global")
    means, kept, sizes = [], [], []
    for ref in weights:
        mask = structure.fold(masks[ref.name])
        assert torch.equal(mask.any(1), mask.all(1))
        means.append(structure.fold(ref.tensor.detach().abs()).mean(1))
        kept.append(mask.any(1))
        sizes.append(mask.shape[1])
    largest = max(sizes)
    compared = [([mean], [keep]) for mean, keep in zip(means, kept, strict=True)] if uniform else [(means, kept)]
    for some_means, some_kept in compared:
        scores, alive = torch.cat(some_means), torch.cat(some_kept)
        if alive.any() and not alive.all():
            assert scores[~alive].max() <= scores[alive].min()
    total = sum(mask.numel() for mask in masks.values())
    asked = sum(round(amount * mask.numel()) for mask in masks.values()) if uniform else round(amount * total)
    pruned = sum(int((~mask).sum()) for mask in masks.values())
    assert asked - largest * (len(weights) if uniform else 1) < pruned <= asked


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 3), st.sampled_from([2, 4]), st.floats(0, 1), st.booleans(), st.booleans())
def test_n_of_m_hold_in_every_group(seed: int, n: int, m: int, part: float, uniform: bool, twice: bool) -> None:
    n = min(n, m - 1)
    most = 1 - n / m
    structure = NM(n, m)
    model = network(seed)
    weights = fitting(model, structure)
    for amount in [part * most] * twice + [part * most, most]:
        masks = compute_masks(weights, amount, structure=structure, allocation="uniform" if uniform else "global")
        apply_masks(model, masks)
        counts = [structure.fold(mask).sum(1) for mask in masks.values()]
        assert all((count >= n).all() for count in counts)
        total = sum(mask.numel() for mask in masks.values())
        asked = sum(round(amount * mask.numel()) for mask in masks.values()) if uniform else round(amount * total)
        assert sum(int((~mask).sum()) for mask in masks.values()) >= asked - (twice and 1)
    assert all((count == n).all() for count in counts)


def test_two_of_four_keep_the_larger_two() -> None:
    layer = nn.Linear(8, 5)
    (mask,) = compute_masks(weight_layers(layer), 0.5, structure=NM(2, 4)).values()
    magnitudes = layer.weight.detach().abs().view(-1, 4)
    groups = mask.view(-1, 4)
    assert (magnitudes.masked_fill(~groups, 9).min(1).values >= magnitudes.masked_fill(groups, -1).max(1).values).all()


def test_ties_are_broken_by_order() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, 3))
    for ref in weight_layers(model):
        nn.init.ones_(ref.tensor)
    masks = compute_masks(weight_layers(model), 0.25, structure=Kernel())
    assert not masks["0"].flatten(0, 1)[:8].any()
    assert masks["0"].flatten(0, 1)[8:].all()
    assert masks["1"].all()
    (mask, *_) = compute_masks(weight_layers(model), 0.5, structure=NM(2, 4)).values()
    assert torch.equal(mask, torch.tensor([False, False, True, True])[:, None, None].expand(4, 4, 3, 3))


def test_pruned_groups_stay_pruned_and_count() -> None:
    model = network(0)
    weights = fitting(model, Kernel())
    first = compute_masks(weights, 0.3, structure=Kernel())
    apply_masks(model, first)
    second = compute_masks(weights, 0.6, structure=Kernel())
    assert not any((second[name] & ~first[name]).any() for name in first)
    assert second == {name: second[name] for name in first}
    one_by_one = compute_masks(weights, 0.6)  # after groups, single weights
    assert not any((one_by_one[name] & ~first[name]).any() for name in first)


def test_layers_that_do_not_divide_do_not_fit() -> None:
    assert not NM(2, 4).fits(torch.Size([8, 3, 7, 7]))
    assert not Block(2, 3).fits(torch.Size([3, 3, 1, 1]))
    assert not Block(2, 3).fits(torch.Size([2, 4, 1, 1]))
    assert not any(structure.fits(torch.Size([4])) for structure in STRUCTURES.values())


@pytest.mark.parametrize(
    ("structure", "amount", "message"),
    [
        ("row", 0.5, "`structure` to be"),
        ("4:2", 0.5, "'4:2'"),
        ("0:2", 0.5, "'0:2'"),
        ("block:0x2", 0.5, "'block:0x2'"),
        (3, 0.5, "but got 3"),
        ("2:4", 0.6, '`amount` of at most 0.5 with `structure` "2:4"'),
    ],
)
def test_bad_structures_are_refused(structure: Any, amount: float, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_structure(structure, amount)


def test_structures_by_name() -> None:
    assert make_structure("weight", 0.5) is None
    assert isinstance(make_structure("kernel", 0.5), Kernel)
    assert isinstance(make_structure("channel", 0.5), Channel)
    assert vars(make_structure("block:4x1", 0.5)) == {"rows": 4, "columns": 1}
    assert vars(make_structure("1:4", 0.75)) == {"n": 1, "m": 4}
    own = Columns()
    assert make_structure(own, 0.5) is own
