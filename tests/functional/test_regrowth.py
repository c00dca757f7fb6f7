"""Dropping and growing weights of a sparse model."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_prune.errors import InputError
from lit_prune.functional import masking, selection
from lit_prune.functional.criteria import RandomScore
from lit_prune.functional.masking import apply_masks
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.regrowth import drop_fraction_at, regrow_masks

# typed as Any, because mypy does not know which modules a model contains
weight_layers: Any = selection.weight_layers
current_mask: Any = masking.current_mask


def sparse_network(seed: int, amount: float) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Linear(20, 7), nn.Linear(3, 2))
    apply_masks(model, compute_masks(weight_layers(model), amount, RandomScore(seed), allocation="uniform"))
    return model


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.95), st.floats(0, 0.6), st.integers(1, 4))
@pytest.mark.filterwarnings("ignore:Layers? .* entirely zero")
def test_the_smallest_are_dropped_and_the_highest_scores_grow(seed: int, amount: float, part: float, ties: int) -> None:
    model = sparse_network(seed, amount)
    weights = weight_layers(model)
    before = {ref.name: current_mask(ref) for ref in weights}
    # few different scores, so that there are ties
    scores = [(torch.rand(ref.tensor.shape) * 10**ties).round() for ref in weights]
    kept, masks = regrow_masks(weights, part, lambda _: scores)
    for ref, score in zip(weights, scores, strict=True):
        old, left, new = before[ref.name], kept[ref.name], masks[ref.name]
        count = min(round(part * int(old.sum())), int((~old).sum()))  # no more than can be replaced
        assert int(new.sum()) == int(old.sum())
        assert not (left & ~old).any()
        assert int(left.sum()) == int(old.sum()) - count
        assert (new | ~left).all()
        dropped, grown = old & ~left, new & ~left
        size = ref.tensor.detach().abs()
        if count and left.any():
            assert size[dropped].max() <= size[left].min()
        refused = ~new
        if count and refused.any():
            assert score[grown].min() >= score[refused].max()
            # the first of equal scores
            edge = (score == score[grown].min()) & ~left
            order = edge.flatten().nonzero().flatten()
            chosen = grown.flatten()[order]
            assert torch.equal(chosen.sort(descending=True, stable=True).values, chosen)


def test_grown_weights_start_at_zero() -> None:
    model = sparse_network(0, 0.8)
    weights = weight_layers(model)
    before = [ref.tensor.detach().clone() for ref in weights]
    kept, masks = regrow_masks(weights, 0.5, RandomScore(1))
    apply_masks(model, kept)
    apply_masks(model, masks)
    for ref, old in zip(weights, before, strict=True):
        grown = masks[ref.name] & ~kept[ref.name]
        assert not ref.tensor[grown].any()
        assert torch.equal(ref.tensor[kept[ref.name]], old[kept[ref.name]])


def test_the_fraction_falls_along_a_cosine() -> None:
    assert [drop_fraction_at(time, 0.3) for time in (0, 0.5, 1)] == pytest.approx([0.3, 0.15, 0])


def test_scores_that_are_not_finite_are_refused() -> None:
    model = sparse_network(0, 0.5)
    with pytest.raises(InputError, match="finite scores of `0` to grow weights"):
        regrow_masks(weight_layers(model), 0.5, lambda weights: [torch.full_like(w, float("nan")) for w in weights])
