"""`lit-prune prune`: set weights of a trained network to zero, without training."""

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal

from jsonargparse import Namespace
from torch import Tensor, nn

from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.cli.tables import table
from lit_prune.errors import check_integer, expected
from lit_prune.files.checkpoint import KEY
from lit_prune.functional.criteria import RandomScore, magnitude
from lit_prune.functional.masking import apply_masks, remove_masks
from lit_prune.functional.pruning import (
    check_amount,
    check_max_layer_sparsity,
    check_room,
    global_masks,
    local_masks,
)
from lit_prune.functional.selection import WeightRef
from lit_prune.functional.sparsity import SparsityReport, sparsity_report
from lit_prune.trained.choice import add_choice, choose_weights
from lit_prune.trained.network import Network, fit_options, load_network, save_network
from lit_prune.trained.scoring import find_data_class, load_batches, names_data, score, wants_scores

_MAX_SEED = 2**32 - 1


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune prune` and return its exit status."""
    return run_command(_prune, argv)


def _prune(argv: Sequence[str]) -> None:
    options = _parse(argv)
    output = check_output(options.output, options.checkpoint)
    network = load_network(options.checkpoint, options.model)
    model = network.require_model()
    weights = choose_weights(model, options)
    check_room(weights, options.amount, options.max_layer_sparsity)
    split: Literal["val", "test"] = options.split or "test"
    scored = wants_scores(options) or options.split is not None
    images = load_batches(network, options, split) if scored else []

    scores = [score(model, images)] if scored else []
    mask_zeros(model, weights)
    before = sparsity_report(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        seed = (options.seed or 0) if options.random else None
        masks = choose_masks(weights, options.amount, seed, options.local, options.max_layer_sparsity)
    for warning in caught:
        print(f"lit-prune: warning: {warning.message}", file=sys.stderr)
    apply_masks(model, masks)
    remove_masks(model)
    if scored:
        scores.append(score(model, images))
    save_network(network, model, output)

    print(_format_layers(before, sparsity_report(weights)))
    if scores:
        first, last = scores
        change = f"{100 * (last.accuracy - first.accuracy):+.2f} points"
        accuracies = f"{first.accuracy:.2%} before, {last.accuracy:.2%} after ({change})"
        print(f"\n{last.describe(split)}: {accuracies}")
    print(f"\nwritten: {output}; to fine-tune it and keep its zeros: lit-prune fit {_start_from(network, options)} \\")
    print(f"  {_pruning_callback(options)}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = make_checkpoint_parser(
        "prune",
        "Set the weights of smallest magnitude to zero, without training. With --limit, --split or any --data option, "
        "also measure the network's accuracy before and after pruning.",
        data="any",
        data_class=find_data_class(argv),
    )
    parser.add_argument("--amount", type=float, required=True, help="Fraction of weights to prune, in [0, 1).")
    parser.add_argument("--output", type=str, required=True, help="Checkpoint to write.")
    add_choice(parser)
    parser.add_argument("--random", action="store_true", help="Choose weights at random instead of by magnitude.")
    parser.add_argument("--seed", type=int | None, default=None, help="Random seed for `--random` (default: 0).")
    parser.add_argument(
        "--local", action="store_true", help="Prune the fraction `--amount` of each layer, not of all layers together."
    )
    parser.add_argument(
        "--max_layer_sparsity", type=float | None, default=None, help="Prune at most this fraction of any layer."
    )
    parser.add_argument(
        "--split",
        type=Literal["val", "test"] | None,
        default=None,
        help="Images on which to measure accuracy; to choose `--amount` by accuracy, use val (default: test).",
    )
    options = parse_checkpoint_command(parser, argv)
    check_amount(options.amount)
    check_max_layer_sparsity(options.max_layer_sparsity)
    if options.local and options.max_layer_sparsity is not None:
        hint = "`--local` prunes the same fraction of every layer, so no layer needs a limit"
        raise expected("one of `--local` and `--max_layer_sparsity`", "both", hint)
    if options.seed is not None and not options.random:
        raise expected("`--random` with `--seed`", "`--seed` alone", "pruning by magnitude uses no random numbers")
    if options.seed is not None:
        check_integer("--seed", options.seed, 0, _MAX_SEED, hint="leave it out for 0")
    return options


def choose_masks(
    weights: Sequence[WeightRef],
    amount: float,
    seed: int | None = None,
    local: bool = False,
    max_layer_sparsity: float | None = None,
) -> dict[str, Tensor]:
    """Compute masks that prune the fraction `amount` of all weights together or, if `local`, of each layer.

    Weights that are already masked stay pruned and count towards `amount`. If `seed` is None, the masks prune the
    weights of smallest magnitude, otherwise random weights. For `max_layer_sparsity`, see `compute_masks`.

    Raises:
        InputError: If an argument is invalid, or the weights already have a higher sparsity than `amount`.
    """
    criterion = magnitude if seed is None else RandomScore(seed)
    before = sparsity_report(weights)
    if local:
        masks = local_masks(weights, amount, criterion)
    else:
        masks = global_masks(weights, amount, criterion, max_layer_sparsity)
    pruned = sum(int((~mask).count_nonzero()) for mask in masks.values())
    if pruned == before.zeros > round(amount * before.weights):
        raise expected(
            f"an `amount` above the current sparsity of these weights, {before.sparsity:.4f}",
            amount,
            "weights that are already zero stay zero and count towards `amount`",
        )
    return masks


def mask_zeros(model: nn.Module, weights: Sequence[WeightRef]) -> None:
    """Mask all weights that are zero, so that pruning counts them as pruned and keeps them zero."""
    kept = {ref.name: ref.tensor != 0 for ref in weights}
    apply_masks(model, {name: mask for name, mask in kept.items() if not mask.all()})


def _format_layers(before: SparsityReport, after: SparsityReport) -> str:
    rows = [
        [new.name, f"{new.weights:,}", f"{old.zeros:,}", f"{new.zeros:,}", f"{new.sparsity:.2%}"]
        for old, new in zip(before.layers, after.layers, strict=True)
    ]
    total = ["all", f"{after.weights:,}", f"{before.zeros:,}", f"{after.zeros:,}", f"{after.sparsity:.2%}"]
    return table(("layer", "weights", "zeros before", "zeros", "sparsity"), rows, total)


def _pruning_callback(options: Namespace) -> str:
    """Return options of `fit` for a callback that keeps the zeros, because it prunes the smallest magnitudes first."""
    argv = [
        f"--trainer.callbacks+={'LocalL1Pruning' if options.local else 'GlobalL1Pruning'}",
        f"--trainer.callbacks.amount={options.amount}",
    ]
    for name in ("layers", "exclude", "parameters"):
        if options[name]:
            argv.append(f"--trainer.callbacks.{name}={shlex.quote(json.dumps(options[name]))}")
    return " ".join(argv)


def _start_from(network: Network, options: Namespace) -> str:
    """Return options of `fit` that start from the written file, with the same model and data."""
    if options.model is None:
        return fit_options(network, options.output)
    argv = [f"--model {options.model}"]
    model: Any = network.require_model()
    for name, parameter in signature(type(model)).parameters.items():
        if name in model.hparams and model.hparams[name] != parameter.default:
            argv.append(f"--model.{name} {shlex.quote(json.dumps(model.hparams[name], default=str))}")
    data = options.data if names_data(options) else network.settings.get("data", {})
    if "class_path" in data or KEY not in network.content:
        argv.append(f"--data {data.get('class_path', 'module.Class')}")
    return " ".join([*argv, f"--init_from {shlex.quote(options.output)}"])
