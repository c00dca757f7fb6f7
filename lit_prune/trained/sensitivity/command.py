"""`lit-prune sensitivity`: what pruning each layer alone costs."""

import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Literal

import torch
from jsonargparse import Namespace
from torch import Tensor, nn
from tqdm import tqdm

from lit_prune.cli.run_command import run_command
from lit_prune.errors import UnfinishedError, expected
from lit_prune.functional.pruning import check_amount, global_l1_masks
from lit_prune.functional.selection import WeightRef, weight_layers
from lit_prune.cli.parser import check_picture, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.network import Network, load_network
from lit_prune.trained.scoring import Score, accuracy, batches, data_module
from lit_prune.trained.sensitivity.measurements import Measurements, fingerprint
from lit_prune.trained.sensitivity.result import Sensitivity

__all__ = ["main", "measure", "pruned_alone"]

_AMOUNTS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]


def main(argv: Sequence[str]) -> int:
    """Run `sensitivity`; see `lit-prune sensitivity --help`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if files could not be read or written on the way, 2 for input that cannot be used, or
        128 + signal.
    """
    return run_command(_sensitivity, argv)


@contextmanager
def pruned_alone(ref: WeightRef, amount: float) -> Iterator[bool]:
    """Prune one layer to an amount while it lasts, by magnitude; what is zero in it counts.

    Args:
        ref: The layer.
        amount: In [0, 1).

    Yields:
        Whether this changes anything: not if so many of its weights are zero already.

    Raises:
        InputError: If a weight is NaN or infinite.
    """
    weight = ref.tensor.detach()
    before = weight.clone()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of a layer that loses all of its few weights, which is the point
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
    tick: Callable[[str], None] = lambda layer: None,
) -> tuple[Score, dict[str, list[Score]]]:
    """Score a network as it is, and with each layer pruned alone to each amount.

    Args:
        model: The network; it is as it was afterwards.
        weights: Its layers.
        amounts: Ascending.
        score: Scores the network as it is now.
        known: Scores that need not be measured again; what is measured is added.
        tick: Is called with the name of the layer after each score.

    Returns:
        The score of the network, and those of each layer by its name.
    """

    def measured(layer: str | None, amount: float, find: Callable[[], Score]) -> Score:
        found = known.get(layer, amount)
        if found is None:
            found = find()
            known.add(layer, amount, found)
            tick(layer or type(model).__name__)
        return found

    def alone(ref: WeightRef, amount: float) -> Score:
        with pruned_alone(ref, amount) as changed:
            return score() if changed else base

    base = measured(None, 0.0, score)
    return base, {
        ref.name: [measured(ref.name, amount, partial(alone, ref, amount)) for amount in amounts] for ref in weights
    }


def _sensitivity(argv: Sequence[str]) -> None:
    given = _parse(argv)
    picture = check_picture("--output", given.output)
    network = load_network(given.checkpoint, given.model)
    model = network.require_model()
    weights = weight_layers(model, given.layers, given.exclude)
    images = list(batches(data_module(network, given), given.split, given.limit))
    known = Measurements(picture.with_suffix(".jsonl"), _about(network, images, given.split))
    amounts = sorted(set(given.amounts))
    total = 1 + len(weights) * len(amounts)
    done = sum(known.get(ref.name, amount) is not None for ref in weights for amount in amounts)
    done += known.get(None, 0.0) is not None
    if done:
        print(f"{done} of {total} scores are in {known.path} already.", file=sys.stderr)
    with tqdm(total=total, initial=done, unit="score", dynamic_ncols=True, disable=None) as bar:

        def tick(layer: str) -> None:
            bar.set_postfix_str(layer, refresh=False)
            bar.update()

        try:
            base, scores = measure(model, weights, amounts, lambda: accuracy(model, images), known, tick)
        except UnfinishedError as error:
            bar.close()
            raise _unfinished(error, known, total) from error
    sizes = {ref.name: ref.tensor.numel() for ref in weights}
    found = Sensitivity(given.checkpoint, given.split, base, sizes, amounts, scores)
    # matplotlib's figures take a second to import
    from lit_prune.trained.sensitivity.figure import draw_map

    draw_map(found, given.tolerance, picture)
    shown = {"table": found.as_table, "json": found.as_json, "csv": found.as_csv}[given.format]
    print(shown(given.tolerance))
    if given.format == "table":
        print(f"\nwritten: {picture}, and the scores in {known.path}")


def _parse(argv: Sequence[str]) -> Namespace:
    parser = make_checkpoint_parser(
        "sensitivity",
        "Prune each layer alone, by magnitude and without training, and measure what it costs. Scores are kept in a "
        ".jsonl file beside --output: the same command goes on where it was stopped.",
        data=True,
    )
    parser.add_argument(
        "--output", type=str, default="sensitivity.png", help="The heat map to write (default: sensitivity.png)."
    )
    parser.add_argument(
        "--amounts",
        type=float,
        nargs="+",
        default=_AMOUNTS,
        help="Fractions of a layer's weights to be zero (default: 0.1 to 0.9 by tenths, and 0.95).",
    )
    parser.add_argument("--layers", type=str, nargs="+", default=None, help="Globs of layers (default: all of them).")
    parser.add_argument("--exclude", type=str, nargs="+", default=[], help="Globs of layers to leave out.")
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        help="Percentage points of accuracy that pruning one layer may cost, for the suggestion (default: 1.0).",
    )
    parser.add_argument(
        "--split",
        type=Literal["val", "test"],
        default="val",
        help="Images to score (default: val, as one chooses by it).",
    )
    parser.add_argument(
        "--format", type=Literal["table", "json", "csv"], default="table", help="What to print (default: table)."
    )
    given = parse_checkpoint_command(parser, argv)
    for amount in given.amounts:
        check_amount(amount)
    if not given.tolerance >= 0:
        raise expected("`--tolerance` of 0 points or more", given.tolerance, "1.0 lets a layer cost one point")
    return given


def _about(network: Network, images: Sequence[tuple[Tensor, Tensor]], split: str) -> dict[str, str]:
    parts = [(str(n), part) for n, batch in enumerate(images) for part in batch]
    return {
        "weights": fingerprint(sorted(network.state_dict.items())),
        "images": fingerprint(parts),
        "network": type(network.model).__name__,
        "split": split,
    }


def _unfinished(error: UnfinishedError, known: Measurements, total: int) -> UnfinishedError:
    name = {130: "SIGINT", 143: "SIGTERM"}.get(error.status, "a signal")
    hint = f"they are in `{known.path}`; the same command goes on"
    sentence = expected(f"to measure {total} scores", f"{name} after {len(known)}", hint)
    return UnfinishedError(str(sentence), error.status)
