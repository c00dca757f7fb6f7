"""Allocations: which fraction of each layer to prune."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from functools import partial
from math import prod
from typing import Any

from lit_prune.errors import check_choice, expected

Allocation = Callable[[Mapping[str, tuple[int, ...]], float], Mapping[str, float]]
"""Function that returns the fraction of each layer to prune, in [0, 1], by name.

It receives the shape of each layer's weight, by name, and the fraction of all weights to prune.
"""

ALLOCATIONS = ("global", "uniform", "erk")


def uniform(shapes: Mapping[str, tuple[int, ...]], amount: float) -> dict[str, float]:
    """Prune the same fraction of each layer."""
    return dict.fromkeys(shapes, amount)


def erk(
    shapes: Mapping[str, tuple[int, ...]], amount: float, max_layer_sparsity: float | None = None
) -> dict[str, float]:
    """Prune large layers more, by the Erdős-Rényi-Kernel formula (Evci et al., "Rigging the lottery", 2020).

    The density of a layer is proportional to the sum of its dimensions over their product, for example
    `(out + in + height + width) / (out * in * height * width)`. Layers whose density would exceed 1 stay dense.

    Args:
        shapes: Shape of each layer's weight, by name.
        amount: Fraction of all weights to prune.
        max_layer_sparsity: Largest fraction of a layer to prune; None sets no limit.
    """
    least = 0.0 if max_layer_sparsity is None else 1 - max_layer_sparsity
    raw = {name: sum(shape) / prod(shape) for name, shape in shapes.items()}
    kept = (1 - amount) * sum(map(prod, shapes.values()))

    def densities(factor: float) -> dict[str, float]:
        return {name: min(1.0, max(least, factor * value)) for name, value in raw.items()}

    low, high = 0.0, 1 / min(raw.values())  # at `high`, all layers are dense
    for _ in range(100):  # more halvings than a float has bits
        middle = (low + high) / 2
        found = sum(density * prod(shapes[name]) for name, density in densities(middle).items())
        low, high = (middle, high) if found < kept else (low, middle)
    return {name: 1 - density for name, density in densities(high).items()}


def by_glob(fractions: Mapping[str, float], shapes: Mapping[str, tuple[int, ...]], amount: float) -> dict[str, float]:
    """Prune of each layer the fraction of the first glob that matches it or a container of it; otherwise `amount`.

    Raises:
        InputError: If a glob matches no layer.
    """
    for glob in fractions:
        if not any(_matches(name, glob) for name in shapes):
            hint = f"the layers are, for example, {', '.join(f'`{name}`' for name in list(shapes)[:3])}"
            raise expected("every pattern in `allocation` to match a layer", f"`{glob}`, which matches none", hint)
    return {name: next((fractions[glob] for glob in fractions if _matches(name, glob)), amount) for name in shapes}


def _matches(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or fnmatchcase(name, f"{glob}.*")


def allocate(allocation: Allocation, shapes: Mapping[str, tuple[int, ...]], amount: float) -> list[float]:
    """Return the fraction of each layer to prune, in the order of `shapes`.

    Raises:
        InputError: If the allocation leaves out a layer, or gives a fraction outside [0, 1).
    """
    fractions = allocation(shapes, amount)
    for name in shapes:
        if name not in fractions or not 0 <= fractions[name] < 1:
            found = fractions.get(name, "none")
            hint = "return the fraction of each layer to prune, by the name of the layer"
            raise expected(f"a fraction in [0, 1) for `{name}` from `allocation`", found, hint)
    return [fractions[name] for name in shapes]


def in_proportion(allocation: Allocation, amount: float) -> Allocation:
    """Return an allocation for the steps towards `amount`, in which the fractions of all layers grow in proportion."""

    def fractions(shapes: Mapping[str, tuple[int, ...]], target: float) -> dict[str, float]:
        final = allocation(shapes, amount)
        # if all layers have the same fraction, the quotient is exactly 1
        return {
            name: target * (share / amount) if target < amount else share
            for name, share in final.items()
            if name in shapes
        }

    return fractions


def make_allocation(allocation: Any, amount: float, max_layer_sparsity: float | None = None) -> Allocation | None:
    """Return the function for the `allocation` argument of `Pruning`; None for "global".

    Raises:
        InputError: If the argument is not a name, mapping or function, if a fraction is not in [0, 1), if `amount` is 0
            with a mapping, or if `max_layer_sparsity` is given for an allocation other than "global" and "erk".
    """
    if max_layer_sparsity is not None and allocation not in ("global", "erk"):
        what = 'no `max_layer_sparsity`, except with `allocation` "global" or "erk"'
        raise expected(what, max_layer_sparsity, "this allocation sets the fraction of each layer; leave the limit out")
    if isinstance(allocation, Mapping):
        for glob, fraction in allocation.items():
            if not isinstance(fraction, int | float) or not 0 <= fraction < 1:
                raise expected(f"a fraction in [0, 1) for `{glob}` in `allocation`", fraction, "0 leaves it dense")
        if amount == 0:
            hint = "it is the fraction to prune in layers that no pattern matches; to leave them dense, use `exclude`"
            raise expected("`amount` above 0 if `allocation` is a mapping", amount, hint)
        return partial(by_glob, dict(allocation))
    if callable(allocation):
        result: Allocation = allocation
        return result
    check_choice("allocation", allocation, ALLOCATIONS)
    return {"global": None, "uniform": uniform, "erk": partial(erk, max_layer_sparsity=max_layer_sparsity)}[allocation]
