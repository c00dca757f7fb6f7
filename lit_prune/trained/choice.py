"""The options that choose the weights to prune; they work as the arguments of pruning callbacks do."""

import sys

from jsonargparse import Namespace
from torch import nn

from lit_prune.cli.parser import CommandParser
from lit_prune.functional.selection import WeightRef, describe_passed_over, weight_layers


def add_choice(parser: CommandParser) -> None:
    """Add the options `--layers`, `--exclude` and `--parameters` to a parser."""
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


def choose_weights(model: nn.Module, options: Namespace) -> list[WeightRef]:
    """Choose weights of a model as `options` say; without `--layers` and `--parameters`, print what is left out."""
    weights = weight_layers(model, options.layers, options.exclude, options.parameters)
    left = describe_passed_over(model) if options.layers is None and options.parameters is None else None
    if left is not None:
        text = f"leaving out {left}. Choose parameters by name with `--parameters`."
        print(f"lit-prune: {text}", file=sys.stderr)
    return weights
