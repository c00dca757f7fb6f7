"""The options that say which weights to prune; they work as the arguments of `Pruning` do."""

import os
import sys
from collections.abc import Sequence

from jsonargparse import Namespace
from torch import nn

from lit_prune.callbacks import Pruning
from lit_prune.cli.parser import CommandParser
from lit_prune.errors import expected
from lit_prune.functional.criteria import CRITERIA, RandomScore
from lit_prune.functional.masking import apply_masks
from lit_prune.functional.selection import WeightRef, describe_passed_over, weight_layers


def add_choice(parser: CommandParser) -> None:
    """Add the options that say which layers to prune, and by which criterion, structure and random seed."""
    parser.add_argument(
        "--layers", type=str, nargs="+", default=None, help="Layers to prune, as globs of names (default: all)."
    )
    parser.add_argument("--exclude", type=str, nargs="+", default=[], help="Layers not to prune, as globs of names.")
    parser.add_argument(
        "--parameters",
        type=str,
        nargs="+",
        default=None,
        help="Parameters to prune, as globs of full names such as '*.pos_embed' (default: those with at least two "
        "dimensions and 'weight' in their names, outside of norms and embeddings).",
    )
    names = ", ".join(name for name in CRITERIA if name != "movement")
    parser.add_argument(
        "--criterion",
        type=str,
        default="magnitude",
        help=f"Which weights are least important: {names}, or module.function of your own. Criteria that need data "
        "take it from the training split.",
    )
    parser.add_argument(
        "--structure",
        type=str,
        default="weight",
        help="Which weights are pruned together: weight, kernel, channel, block:RxC, or N:M, for example 2:4.",
    )
    parser.add_argument(
        "--seed",
        type=int | None,
        default=None,
        help="Random seed of the criterion `random`, and of the batches of criteria that need data (default: 0).",
    )


def make_pruner(options: Namespace, amount: float) -> Pruning:
    """Return the callback with these options, whose methods choose and prune weights.

    Raises:
        InputError: If an option cannot be used, or if the criterion observes training and cannot score without it.
    """
    if "." in options.criterion and os.getcwd() not in sys.path:  # a criterion may be in the current folder
        sys.path.insert(0, os.getcwd())
    names = ("criterion", "structure", "allocation", "layers", "exclude", "parameters", "max_layer_sparsity")
    parts = {name: options[name] for name in names if name in options}
    pruner = Pruning(amount, **parts, seed=0 if options.seed is None else options.seed)
    if hasattr(pruner.criterion, "observe"):
        callback = f"+=Pruning --trainer.callbacks.amount {amount} --trainer.callbacks.criterion {options.criterion}"
        raise expected(
            "a criterion that can score a trained network",
            f"`{options.criterion}`, which observes gradients during training",
            f"prune while you train, with `lit-prune fit --trainer.callbacks{callback}`",
        )
    if options.seed is not None and not (isinstance(pruner.criterion, RandomScore) or needs_data(pruner)):
        raise expected(
            "`--seed` with a criterion that draws random numbers", f"`{options.criterion}`", "leave the seed out"
        )
    return pruner


def needs_data(pruner: Pruning) -> bool:
    """Return whether the criterion measures scores on batches of training data."""
    return hasattr(pruner.criterion, "measure")


def choose_weights(model: nn.Module, options: Namespace, pruner: Pruning) -> list[WeightRef]:
    """Choose weights by the options; print which layers do not divide into groups, and what is left out by default."""
    weights = pruner.choose(model)
    left = describe_passed_over(model) if options.layers is None and options.parameters is None else None
    if left is not None:
        text = f"leaving out {left}. Choose parameters by name with `--parameters`."
        print(f"lit-prune: {text}", file=sys.stderr)
    chosen = {ref.name for ref in weights}
    every = weight_layers(model, options.layers, options.exclude, options.parameters)
    if odd := [ref.name for ref in every if ref.name not in chosen]:
        text = f"leaving out layers that do not divide into whole groups of {options.structure}: {', '.join(odd)}."
        print(f"lit-prune: {text}", file=sys.stderr)
    return weights


def mask_zeros(model: nn.Module, weights: Sequence[WeightRef]) -> None:
    """Mask all weights that are zero, so that pruning counts them as pruned and keeps them zero."""
    kept = {ref.name: ref.tensor != 0 for ref in weights}
    apply_masks(model, {name: mask for name, mask in kept.items() if not mask.all()})
