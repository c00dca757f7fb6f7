"""Measure the accuracy of a network with only one layer pruned, for each layer."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn

from lit_prune.functional.criteria import Score as Criterion
from lit_prune.functional.criteria import magnitude
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.structure import Structure
from lit_prune.trained.scoring import Score
from lit_prune.trained.sensitivity.measurements import Measurements


@contextmanager
def prune_temporarily(
    ref: WeightRef, amount: float, criterion: Criterion = magnitude, structure: Structure | None = None
) -> Iterator[bool]:
    """Prune one layer inside a `with` block, and restore its weights afterwards.

    Masked weights count towards `amount`.

    Yields:
        Whether any weight changed.
    """
    weight = ref.tensor.detach()
    before = weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # ignore the warning that a small layer loses all its weights
        keep = compute_masks([ref], amount, criterion, structure=structure)[ref.name]
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
    scorer: Callable[[Sequence[WeightRef]], Criterion] = lambda weights: magnitude,
    structure: Structure | None = None,
) -> tuple[Score, dict[str, list[Score]]]:
    """Call `score` with the network unchanged, and with only one layer pruned, for each layer and amount.

    Afterwards the weights are as before. Scores in `known` are not measured again, and new scores are added to `known`.
    After each new score, `on_score` is called with the name of the pruned layer, or of the model's class if no layer
    is pruned. `scorer` returns the criterion by which a layer is pruned; it is called at most once for each layer.

    Returns:
        The score of the unchanged network, and for each layer, by name, a list with one score for each amount.
    """

    def add(layer: str | None, amount: float, found: Score) -> Score:
        known.add(layer, amount, found)
        on_score(layer or type(model).__name__)
        return found

    base = known.get(None, 0.0) or add(None, 0.0, score())
    scores: dict[str, list[Score]] = {ref.name: [] for ref in weights}
    for ref in weights:
        criterion: Criterion | None = None
        for amount in amounts:
            found = known.get(ref.name, amount)
            if found is None:
                criterion = criterion or scorer([ref])
                with prune_temporarily(ref, amount, criterion, structure) as changed:
                    found = add(ref.name, amount, score() if changed else base)
            scores[ref.name].append(found)
    return base, scores
