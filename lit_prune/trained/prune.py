"""`lit-prune prune`: set weights of a trained network to zero, without training."""

import json
import shlex
import sys
import warnings
from collections.abc import Sequence
from inspect import signature
from typing import Any, Literal

from jsonargparse import Namespace
from torch import nn

from lit_prune.callbacks import Pruning
from lit_prune.cli.parser import check_output, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.cli.tables import table
from lit_prune.errors import InputError, expected
from lit_prune.files.checkpoint import KEY
from lit_prune.functional.masking import remove_masks
from lit_prune.functional.selection import weight_layers
from lit_prune.functional.sparsity import SparsityReport, sparsity_report
from lit_prune.trained.calibration import make_scorer
from lit_prune.trained.choice import add_choice, choose_weights, make_pruner, mask_zeros, needs_data
from lit_prune.trained.network import Network, fit_options, load_network, save_network
from lit_prune.trained.scoring import find_data_class, load_batches, names_data, score, wants_data


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune prune` and return its exit status."""
    return run_command(_prune, argv)


def _prune(argv: Sequence[str]) -> None:
    options, pruner = _parse(argv)
    output = check_output(options.output, options.checkpoint)
    network = load_network(options.checkpoint, options.model)
    model = network.require_model()
    weights = choose_weights(model, options, pruner)
    split: Literal["val", "test"] = options.split or "test"
    # if the criterion needs data, `--data` may be given only for the criterion, so it does not ask for scores
    scored = options.split is not None or options.limit is not None or (wants_data(options) and not needs_data(pruner))
    images = load_batches(network, options, split) if scored else []

    scores = [score(model, images)] if scored else []
    mask_zeros(model, weights)
    pruner.select(model)  # without layers whose channels cannot be removed, which are not scored either
    pruner.criterion = make_scorer(network, pruner, options)(pruner.weights)
    before = sparsity_report(weights)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        pruner.prune(model)
    for warning in caught:
        print(f"lit-prune: warning: {warning.message}", file=sys.stderr)
    after = sparsity_report(weights)
    if after.zeros == before.zeros > round(options.amount * before.weights):
        raise expected(
            f"an `amount` above the current sparsity of these weights, {before.sparsity:.4f}",
            options.amount,
            "weights that are already zero stay zero and count towards `amount`",
        )
    remove_masks(model)
    if scored:
        scores.append(score(model, images))
    save_network(network, model, output)

    print(_format_layers(before, after))
    if scores:
        first, last = scores
        change = f"{100 * (last.accuracy - first.accuracy):+.2f} points"
        accuracies = f"{first.accuracy:.2%} before, {last.accuracy:.2%} after ({change})"
        print(f"\n{last.describe(split)}: {accuracies}")
    print(f"\nwritten: {output}; to fine-tune it and keep its zeros: lit-prune fit {_start_from(network, options)} \\")
    print(f"  {_pruning_callback(options, model)}")


def _parse(argv: Sequence[str]) -> tuple[Namespace, Pruning]:
    parser = make_checkpoint_parser(
        "prune",
        "Set the least important weights to zero, without training. With --limit, --split or any --data option, also "
        "measure the network's accuracy before and after pruning. For a criterion that needs data, --data chooses this "
        "data; to also measure accuracy, add --limit or --split.",
        data="any",
        data_class=find_data_class(argv),
    )
    parser.add_argument("--amount", type=float, required=True, help="Fraction of weights to prune, in [0, 1).")
    parser.add_argument("--output", type=str, required=True, help="Checkpoint to write.")
    add_choice(parser)
    parser.add_argument(
        "--allocation",
        type=dict[str, float] | str,
        default="global",
        help="How much of each layer to prune: global compares the scores of all layers, uniform prunes the fraction "
        "--amount of each, erk prunes large layers more. A mapping such as '{\"head\": 0}' gives fractions by glob.",
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
    return options, make_pruner(options, options.amount)


def _format_layers(before: SparsityReport, after: SparsityReport) -> str:
    rows = [
        [new.name, f"{new.weights:,}", f"{old.zeros:,}", f"{new.zeros:,}", f"{new.sparsity:.2%}"]
        for old, new in zip(before.layers, after.layers, strict=True)
    ]
    total = ["all", f"{after.weights:,}", f"{before.zeros:,}", f"{after.zeros:,}", f"{after.sparsity:.2%}"]
    return table(("layer", "weights", "zeros before", "zeros", "sparsity"), rows, total)


def _pruning_callback(options: Namespace, model: nn.Module) -> str:
    """Return options of `fit` for a callback that keeps the zeros, because it prunes the smallest magnitudes first."""
    parts: dict[str, Any]
    if options.structure == "channel":  # `Pruning` also keeps the biases and norms of these channels at zero
        name, amount = "Pruning", options.amount
        parts = {one: options[one] for one in ("structure", "allocation", "layers", "exclude", "parameters")}
    else:
        parts = {"parameters": options.parameters}
        try:
            weights = weight_layers(model, **parts)
        except InputError:  # some weights cannot be pruned, so that the user had to leave them out
            parts |= {"layers": options.layers, "exclude": options.exclude}
            weights = weight_layers(model, **parts)
        report = sparsity_report(weights)
        name, amount = "GlobalL1Pruning", _exact_amount(report.zeros, report.weights)
    argv = [f"--trainer.callbacks+={name}", f"--trainer.callbacks.amount={amount}"]
    for argument, value in parts.items():
        if value:
            text = value if isinstance(value, str) else json.dumps(value)
            argv.append(f"--trainer.callbacks.{argument}={shlex.quote(text)}")
    return " ".join(argv)


def _exact_amount(zeros: int, weights: int) -> float:
    """Return the fraction with the fewest digits for which pruning makes exactly this number of weights zero."""
    amounts = (round(zeros / weights, digits) for digits in range(1, 17))
    return next(amount for amount in amounts if round(amount * weights) == zeros)


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
