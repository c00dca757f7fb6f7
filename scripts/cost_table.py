"""Measure accuracy, FLOPs, file size and latency of trained networks, and write the tables in docs/benchmarks.md.

    python scripts/cost_table.py dense=dense.ckpt pruned-90=pruned-90.ckpt --data_dir data --write docs/benchmarks.md

Speeds are relative to the first network, in which no weight may be zero. Accuracy is measured as in
`lit-prune test`.
"""

import argparse
import sys
from pathlib import Path

import torch
from jsonargparse import Namespace
from measurements.document import split_document, table

from lit_prune.cli.quiet import quiet
from lit_prune.cli.tables import pluralize
from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import write_text
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.trained.cost.measure import Comparison, Cost, check_measuring, compare
from lit_prune.trained.cost.text import format_ratios
from lit_prune.trained.cost.variants import Kind
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import Score, score_split

START = "<!-- cost table: written by scripts/cost_table.py -->"
END = "<!-- end of the cost table -->"

WAYS: dict[Kind, str] = {
    "dense": "torch's own layers",
    "zeros": "torch's own layers",
    "lit-prune": "`LitResNet18`",
    "cropped": "torch's own layers, cropped",
    "accelerated": "`lit_prune.accelerate`",
    "int8": "torch's own layers, linear ones in 8 bits",
    "onnx": "ONNX Runtime",
    "cropped onnx": "ONNX Runtime, cropped",
}


def main(argv: list[str] | None = None) -> int:
    """Measure the networks, print the tables, and with `--write` insert them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "networks", nargs="+", metavar="NAME=CHECKPOINT", help="names and checkpoints, the dense network first"
    )
    parser.add_argument(
        "--source", choices=["synthetic", "cifar10"], default="cifar10", help="data set for the accuracy"
    )
    parser.add_argument("--data_dir", default="data", help="folder with the CIFAR-10 data")
    parser.add_argument("--limit", type=int, help="use at most this number of test images for the accuracy")
    parser.add_argument("--rounds", type=int, default=21, help="number of measurements of each latency")
    parser.add_argument(
        "--batches", type=int, nargs="+", default=[1, 128], help="batch sizes at which to measure latency"
    )
    parser.add_argument("--threads", type=int, help="CPU threads (default: torch's choice)")
    parser.add_argument("--no_onnx", action="store_true", help="do not measure ONNX Runtime")
    parser.add_argument("--write", type=Path, help="Markdown file whose tables are replaced")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        document = None if options.write is None else split_document(options.write, START, END)
        text = _measure(options)
    except InputError as error:
        parser.error(str(error))
    print(text)
    if document is not None:
        write_text(options.write, f"{document[0]}\n\n{text}\n\n{document[1]}")
    return 0


def _measure(options: argparse.Namespace) -> str:
    check_measuring(32, options.batches, options.rounds)
    paths = dict(argument.partition("=")[::2] for argument in options.networks)
    networks = {name: load_network(path) for name, path in paths.items()}
    models = {name: network.require_model() for name, network in networks.items()}
    first = next(iter(models))
    if zeros := sparsity_report(weight_layers(models[first])).sparsity:
        hint = "put the dense network first"
        raise expected("a first network without zeros", f"`{first}`, with {zeros:.1%} zeros", hint)
    data = Namespace(source=options.source, data_dir=options.data_dir)  # type: ignore[no-untyped-call]
    images = Namespace(data=data, limit=options.limit)  # type: ignore[no-untyped-call]
    scores = {name: score_split(models[name], network, images) for name, network in networks.items()}
    comparison = compare(models, 32, options.batches, options.rounds, onnx=not options.no_onnx)
    return "\n\n".join([_summary(comparison, scores), _ways(comparison), _conclusions(comparison, scores)])


def _summary(comparison: Comparison, scores: dict[str, Score]) -> str:
    """Return a table with one row for each network, measured with PyTorch's own layers."""
    head = ["Network", "Accuracy", "Zeros", "MFLOPs (not zero)", "File, MB", "Compressed, MB"]
    for batch in comparison.batches:
        head += [f"ms, batch {batch}", "Speed"]
    rows = []
    for name, sparsity in comparison.sparsity.items():
        cost = _in_torch(comparison, name)
        variant = cost.variant
        row = [
            name,
            f"{scores[name].accuracy:.2%}",
            f"{sparsity:.1%}",
            f"{variant.flops.nominal / 1e6:.1f} ({variant.flops.nonzero / 1e6:.1f})" if variant.flops else "?",
            f"{variant.bytes / 1e6:.2f}",
            "" if variant.compressed is None else f"{variant.compressed / 1e6:.2f}",
        ]
        for batch in comparison.batches:
            latency = cost.latency[batch]
            row.append(f"{1e3 * latency.median:.2f} ({1e3 * latency.low:.2f} to {1e3 * latency.high:.2f})")
            row.append(f"{comparison.speed(cost, batch):.2f}")
        rows.append(row)
    return table(head, rows)


def _ways(comparison: Comparison) -> str:
    """Return a table with the speed of each network in each way to run it, such as ONNX Runtime."""
    names = list(comparison.sparsity)
    rows: dict[str, dict[str, str]] = {way: {} for way in WAYS.values()}
    for cost in comparison.costs:
        speeds = " / ".join(f"{comparison.speed(cost, batch):.2f}" for batch in comparison.batches)
        rows[WAYS[cost.variant.kind]][cost.variant.network] = f"{speeds} ({cost.variant.bytes / 1e6:.1f} MB)"
    cells = [[way, *(row.get(name, "") for name in names)] for way, row in rows.items() if row]
    return table([f"Speed, batch {' / '.join(map(str, comparison.batches))} (file)", *names], cells)


def _conclusions(comparison: Comparison, scores: dict[str, Score]) -> str:
    """Return sentences on how the costs were measured and how each network compares to the first."""
    machine = comparison.machine
    images = " or ".join(f"{number:,}" for number in sorted({score.images for score in scores.values()}))
    differences = [c.difference for c in comparison.costs if c.difference is not None and c.variant.kind != "int8"]
    measured = (
        f"Measured in {pluralize(comparison.rounds, 'round')} with {pluralize(comparison.threads, 'thread')} on "
        f"{machine['processor']} ({machine['instructions']}), Python {machine['python']}, torch {machine['torch']}; "
        f"accuracy on {images} test images. The logits of a network differ by at most {max(differences):.0e} "
        "between the ways to run it, except in 8 bits."
    )
    first, *others = comparison.sparsity
    dense = _in_torch(comparison, first)
    sentences = []
    for name in others:
        cost = _in_torch(comparison, name)
        if comparison.sparsity[name] > 0:
            times = format_ratios({b: cost.latency[b].ratio(dense.latency[b]) for b in comparison.batches})
            accelerated = comparison.find(name, "accelerated")
            gain = ""
            if accelerated is not None:
                speeds = format_ratios({b: comparison.speed(accelerated, b) for b in comparison.batches})
                gain = f" Accelerated, it is {speeds} times as fast as *{first}*."
            sentences.append(
                f"- Dense layers gain nothing from zeros: *{name}* ({comparison.sparsity[name]:.1%} of the weights are "
                f"zero) takes {times} times as long as *{first}*.{gain}"
            )
        else:
            speeds = format_ratios({b: comparison.speed(cost, b) for b in comparison.batches})
            sentences.append(
                f"- *{name}* has {cost.variant.parameters / dense.variant.parameters:.1%} of the parameters of "
                f"*{first}* and is {speeds} times as fast."
            )
    return "\n".join([measured, "", *sentences])


def _in_torch(comparison: Comparison, network: str) -> Cost:
    cost = comparison.find(network, "zeros", "dense")
    assert cost is not None  # noqa: S101 - every network was measured in one of these forms
    return cost


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
