"""`lit-prune prune`: the smallest weights of a trained network become zero, without training."""

import json
import sys
import warnings
from collections.abc import Sequence
from typing import Literal

from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune.cli.run_command import run_command
from lit_prune.cli.tables import table
from lit_prune.errors import expected
from lit_prune.functional.masking import apply_masks, remove_masks
from lit_prune.functional.pruning import (
    RandomScore,
    check_amount,
    check_cap,
    check_room,
    global_masks,
    local_masks,
    magnitude,
)
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.functional.sparsity import LayerSparsity, SparsityReport, sparsity_report
from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.network import load_network, save_network
from lit_prune.trained.scoring import Score, accuracy, batches, data_module, typed_data

__all__ = ["choose_masks", "main", "mask_zeros"]

_SEEDS = 2**32


def main(argv: Sequence[str]) -> int:
    """Run `prune`; see `lit-prune prune --help`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if files could not be read or written on the way, 2 for input that cannot be used.
    """
    return run_command(_prune, argv)


def choose_masks(
    weights: Sequence[WeightRef],
    amount: float,
    seed: int | None = None,
    local: bool = False,
    max_layer_sparsity: float | None = None,
) -> dict[str, Tensor]:
    """Compute the masks of a pruning in which weights that are masked already stay pruned, and count.

    Args:
        weights: What to choose from.
        amount: In [0, 1): the fraction to be zero; of all weights together, or of each layer.
        seed: Of a random choice. None takes the weights of the smallest magnitude.
        local: Prune each layer to `amount`, where otherwise one threshold goes for all.
        max_layer_sparsity: The largest fraction to prune of any layer, without `local`.

    Raises:
        InputError: If an argument cannot be used, or more weights than `amount` are zero already.
    """
    score = magnitude if seed is None else RandomScore(seed)
    before = sparsity_report(weights)
    masks = local_masks(weights, amount, score) if local else global_masks(weights, amount, score, max_layer_sparsity)
    pruned = sum(int((~mask).count_nonzero()) for mask in masks.values())
    if pruned == before.zeros > round(amount * before.weights):
        raise expected(
            f"an `amount` above the sparsity that these weights have, {before.sparsity:.4f}",
            amount,
            "what is zero stays zero, and counts",
        )
    return masks


def mask_zeros(model: nn.Module, weights: Sequence[WeightRef]) -> None:
    """Mask what is zero in weights, so that a further pruning counts it and leaves it at zero."""
    kept = {ref.name: ref.tensor != 0 for ref in weights}
    apply_masks(model, {name: mask for name, mask in kept.items() if not mask.all()})


def _prune(argv: Sequence[str]) -> None:
    given = _parse(argv)
    output = check_output(given.output, given.checkpoint)
    network = load_network(given.checkpoint, given.model)
    model = network.require_model()
    scored = typed_data(given) or given.limit is not None or given.split is not None
    data = data_module(network, given) if scored else None
    weights = weight_layers(model, given.layers, given.exclude)
    check_room(weights, given.amount, given.max_layer_sparsity)
    split: Literal["val", "test"] = given.split or "test"

    scores = [accuracy(model, batches(data, split, given.limit))] if data is not None else []
    mask_zeros(model, weights)
    before = sparsity_report(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        seed = (given.seed or 0) if given.random else None
        masks = choose_masks(weights, given.amount, seed, given.local, given.max_layer_sparsity)
    for warning in caught:
        print(f"lit-prune: warning: {warning.message}", file=sys.stderr)
    apply_masks(model, masks)
    remove_masks(model)
    if data is not None:
        scores.append(accuracy(model, batches(data, split, given.limit)))
    after = sparsity_report(weights)
    save_network(network, model, output)

    print(_layers(before, after))
    if scores:
        print(f"\n{_scores(split, *scores)}")
    print(f"\nwritten: {output}; fine-tune it with its zeros: lit-prune fit --model.init_from {output} \\")
    print(f"  {_callback(given)}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = make_checkpoint_parser(
        "prune",
        "Zero the weights of the smallest magnitude in a trained network, without training; with any of --data.NAME, "
        "--split and --limit, score it before and after.",
        data=True,
    )
    parser.add_argument("--amount", type=float, required=True, help="Fraction of the weights to be zero, in [0, 1).")
    parser.add_argument("--output", type=str, required=True, help="The checkpoint to write.")
    parser.add_argument(
        "--layers", type=str, nargs="+", default=None, help="Globs of layers to prune (default: all of them)."
    )
    parser.add_argument("--exclude", type=str, nargs="+", default=[], help="Globs of layers to leave out.")
    parser.add_argument("--random", action="store_true", help="Choose at random, not by magnitude.")
    parser.add_argument("--seed", type=int | None, default=None, help="Of `--random` (default: 0).")
    parser.add_argument("--local", action="store_true", help="Prune every layer to `--amount`, not all together.")
    parser.add_argument(
        "--max_layer_sparsity", type=float | None, default=None, help="Prune at most this fraction of any layer."
    )
    parser.add_argument(
        "--split",
        type=Literal["val", "test"] | None,
        default=None,
        help="Images to score: test as `lit-prune test` does, or val to choose an amount by (default: test).",
    )
    given = parse_checkpoint_command(parser, argv)
    check_amount(given.amount)
    check_cap(given.max_layer_sparsity)
    if given.local and given.max_layer_sparsity is not None:
        raise expected(
            "one of `--local` and `--max_layer_sparsity`", "both", "with `--local` all layers become equally sparse"
        )
    if given.seed is not None and not given.random:
        raise expected("`--random` beside `--seed`", "`--seed` alone", "the choice by magnitude has no chance in it")
    if given.seed is not None and not 0 <= given.seed < _SEEDS:
        raise expected(f"`--seed` in [0, {_SEEDS - 1}]", given.seed, "the choice depends on nothing else")
    return given


def _layers(before: SparsityReport, after: SparsityReport) -> str:
    totals = [LayerSparsity("all", report.weights, report.zeros, 0) for report in (before, after)]
    rows = [
        (new.name, f"{new.weights:,}", f"{old.zeros:,}", f"{new.zeros:,}", f"{new.sparsity:.2%}")
        for old, new in zip((*before.layers, totals[0]), (*after.layers, totals[1]), strict=True)
    ]
    head, rule, *lines = table(("layer", "weights", "zeros before", "zeros", "sparsity"), rows).splitlines()
    return "\n".join([head, rule, *lines[:-1], rule, lines[-1]])


def _scores(split: str, before: Score, after: Score) -> str:
    points = 100 * (after.accuracy - before.accuracy)
    return (
        f"{split} accuracy on {after.images:,} images: {before.accuracy:.2%} before, {after.accuracy:.2%} after "
        f"({points:+.2f} points)"
    )


def _callback(given: Namespace) -> str:
    """The callback that holds these zeros: magnitudes of zero are the first to be pruned, however they were chosen."""
    argv = [
        f"--trainer.callbacks+={'LocalL1Pruning' if given.local else 'GlobalL1Pruning'}",
        f"--trainer.callbacks.amount={given.amount}",
    ]
    for name in ("layers", "exclude"):
        if given[name]:
            argv.append(f"--trainer.callbacks.{name}='{json.dumps(given[name])}'")
    return " ".join(argv)
