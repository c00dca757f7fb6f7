"""`lit-prune sensitivity`: measure, for each layer, the loss of accuracy if only this layer is pruned."""

import json
import sys
from collections.abc import Sequence
from typing import Literal

from jsonargparse import Namespace
from tqdm import tqdm

from lit_prune.callbacks import Pruning
from lit_prune.cli.parser import check_picture, make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.errors import UnfinishedError, expected
from lit_prune.trained.calibration import make_scorer
from lit_prune.trained.choice import add_choice, choose_weights, make_pruner, mask_zeros, needs_data
from lit_prune.trained.network import load_network
from lit_prune.trained.own_data import OwnBatches
from lit_prune.trained.scoring import find_data_class, load_batches, score
from lit_prune.trained.sensitivity.measure import measure
from lit_prune.trained.sensitivity.measurements import Measurements, fingerprint
from lit_prune.trained.sensitivity.result import Sensitivity
from lit_prune.trained.sensitivity.text import format_csv, format_json, format_table

_AMOUNTS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95]
_SIGNALS = {130: "Ctrl-C", 143: "SIGTERM"}  # exit status -> what has stopped the command
_FORMATS = {"table": format_table, "json": format_json, "csv": format_csv}


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune sensitivity` and return its exit status."""
    return run_command(_sensitivity, argv)


def _sensitivity(argv: Sequence[str]) -> None:
    options, pruner = _parse(argv)
    picture = check_picture("--output", options.output)
    network = load_network(options.checkpoint, options.model)
    model = network.require_model()
    weights = choose_weights(model, options, pruner)
    images = load_batches(network, options, options.split)
    conditions = {
        "network": type(network.model).__name__,
        "weights": fingerprint(sorted(network.state_dict.items())),
        "split": options.split,
        "images": fingerprint((str(n), part) for n, batch in enumerate(images) for part in batch),
    }
    if isinstance(images, OwnBatches):
        conditions["metric"] = options.metric or ""
    conditions |= {"criterion": options.criterion, "structure": options.structure, "seed": str(options.seed or 0)}
    if needs_data(pruner):
        data = {n: v for n, v in options.data.as_dict().items() if n != "data_dir"}
        conditions["training data"] = json.dumps(data, sort_keys=True)
    mask_zeros(model, weights)  # as `prune` does: weights that are already zero count towards the amounts
    known = Measurements(picture.with_suffix(".jsonl"), conditions)
    amounts = sorted(set(options.amounts))
    wanted = [(None, 0.0), *((ref.name, amount) for ref in weights for amount in amounts)]

    def count_known() -> int:
        return sum(known.get(*measurement) is not None for measurement in wanted)

    total = len(wanted)
    if done := count_known():
        print(f"{done} of {total} measurements are already in {known.path}.", file=sys.stderr)
    with tqdm(total=total, initial=done, unit="measurement", dynamic_ncols=True, disable=None) as bar:

        def show_progress(layer: str) -> None:
            bar.set_postfix_str(layer, refresh=False)
            bar.update()

        try:
            scorer = make_scorer(network, pruner, options)
            base, scores = measure(
                model, weights, amounts, lambda: score(model, images), known, show_progress, scorer, pruner.structure
            )
        except UnfinishedError as error:
            if error.status not in _SIGNALS:
                raise
            bar.close()
            done = count_known()
            message = f"Stopped by {_SIGNALS[error.status]} after {done} of {total} measurements"
            saved = f", all saved in `{known.path}`" if done else ""
            raise UnfinishedError(f"{message}{saved}. Run the same command again to continue.", error.status) from error
    sizes = {ref.name: ref.tensor.numel() for ref in weights}
    parts = [options.criterion, *([] if pruner.structure is None else [options.structure])]
    result = Sensitivity(options.checkpoint, options.split, base, sizes, amounts, scores, ", ".join(parts))
    # matplotlib takes a second to import
    from lit_prune.trained.sensitivity.figure import draw_map

    draw_map(result, options.tolerance, picture)
    print(_FORMATS[options.format](result, options.tolerance))
    if options.format == "table":
        print(f"\nwritten: {picture}, and the measurements in {known.path}")


def _parse(argv: Sequence[str]) -> tuple[Namespace, Pruning]:
    parser = make_checkpoint_parser(
        "sensitivity",
        "Prune one layer at a time, without training, and measure accuracy. Measurements are saved "
        "in a .jsonl file next to --output; after an interruption, run the same command again to continue.",
        data="any",
        data_class=find_data_class(argv),
    )
    parser.add_argument("--output", type=str, default="sensitivity.png", help="PNG file of the heat map.")
    parser.add_argument(
        "--amounts",
        type=float,
        nargs="+",
        default=_AMOUNTS,
        help="Fractions of a layer to prune (default: 0.1 to 0.9 in steps of 0.1, and 0.95).",
    )
    add_choice(parser)
    parser.add_argument(
        "--tolerance",
        type=float,
        default=1.0,
        help="Largest acceptable loss of accuracy from pruning one layer, in percentage points; it determines the "
        "suggested `max_layer_sparsity`.",
    )
    parser.add_argument(
        "--split",
        type=Literal["val", "test"],
        default="val",
        help="Images on which to measure accuracy (default: val, because limits must not be chosen on test images).",
    )
    parser.add_argument("--format", type=Literal["table", "json", "csv"], default="table", help="Format of the output.")
    options = parse_checkpoint_command(parser, argv)
    pruner = max((make_pruner(options, amount) for amount in options.amounts), key=lambda pruner: pruner.amount)
    if not options.tolerance >= 0:
        hint = "with 1.0, pruning a layer may cost one percentage point of accuracy"
        raise expected("`--tolerance` of 0 points or more", options.tolerance, hint)
    return options, pruner
