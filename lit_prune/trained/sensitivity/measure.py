"""Score a network with each of its layers pruned alone."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import nn

from lit_prune.functional.pruning import global_l1_masks
from lit_prune.functional.selection import WeightRef
from lit_prune.trained.scoring import Score
from lit_prune.trained.sensitivity.measurements import Measurements


@contextmanager
def prune_temporarily(ref: WeightRef, amount: float) -> Iterator[bool]:
    """Prune one layer by magnitude inside a `with` block, and restore its weights afterwards.

    Weights that are zero already count.

    Yields:
        Whether any weight changed.
    """
    weight = ref.tensor.detach()
    before = weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # losing all weights of a small layer is intended here
        keep = global_l1_masks([ref], amount)[ref.name]
    weight.mul_(keep)
    try:
        yield not torch.equal(weight, before)
    finally:
        weight.copy_(before)


def measure(
    model: nn.Module,
    weights: Sequence[WeightRef],
    amounts: Sequence[float],
    score: Callable[[], Score],
    known: Measurements,
    on_score: Callable[[str], None] = lambda layer: None,
) -> tuple[Score, dict[str, list[Score]]]:
    """Score a network as it is, and with each layer pruned alone to each amount.

    Args:
        model: Network; it is unchanged afterwards.
        weights: Layers to prune.
        amounts: Fractions to prune, ascending.
        score: Function that scores the network in its current state.
        known: Scores measured before, which are not measured again; new ones are added.
        on_score: Function called after each new score, with the name of the layer.

    Returns:
        The score of the network as it is, and the scores of each layer by name.
    """

    def look_up_or_measure(layer: str | None, amount: float, find: Callable[[], Score]) -> Score:
        found = known.get(layer, amount)
        if found is None:
            found = find()
            known.add(layer, amount, found)
            on_score(layer or type(model).__name__)
        return found

    def score_pruned(ref: WeightRef, amount: float) -> Score:
        with prune_temporarily(ref, amount) as changed:
            return score() if changed else base

    base = look_up_or_measure(None, 0.0, score)
    return base, {
        ref.name: [look_up_or_measure(ref.name, amount, partial(score_pruned, ref, amount)) for amount in amounts]
        for ref in weights
    }
