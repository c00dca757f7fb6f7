"""Measure at which sizes and sparsities zeros save time, and write the tables in docs/benchmarks.md.

    python scripts/sparse_table.py --json sparse.json --write docs/benchmarks.md

Compares sparse linear layers, which multiply only non-zero weights, with dense ones, and networks that were converted
by `lit_prune.accelerate` with their originals. The two sides of a comparison take turns in one process. Measurements
are stored in the JSON file one by one: the same command resumes an interrupted run, and only writes the tables when all
is measured.
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measurements.document import split_document, table
from measurements.sparse import break_even, make_encoder, make_resnet, measure_network, measure_product
from torch import nn

from lit_prune.cli.quiet import quiet
from lit_prune.errors import InputError
from lit_prune.files.atomic import write_text
from lit_prune.trained.cost.measure import describe_machine

START = "<!-- sparse tables: written by scripts/sparse_table.py -->"
END = "<!-- end of the sparse tables -->"

SHAPES = [(768, 768), (3072, 768), (768, 3072), (2048, 2048), (4096, 4096), (512, 4608)]  # outputs, inputs
ROWS = [1, 8, 128, 1024]
SPARSITIES = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98]
NETWORK_SPARSITIES = [0.8, 0.9, 0.95, 0.98]
# by name: how to make the network, and shapes of inputs by description
NETWORKS: dict[str, tuple[Callable[[float], nn.Module], dict[str, Sequence[int]]]] = {
    "encoder": (
        make_encoder,
        {
            "encoder, 1 token, batch 1": (1, 1, 768),
            "encoder, 1 token, batch 8": (8, 1, 768),
            "encoder, 128 tokens, batch 1": (1, 128, 768),
            "encoder, 128 tokens, batch 8": (8, 128, 768),
        },
    ),
    "resnet": (
        make_resnet,
        {"ResNet-18, 32x32 pixels, batch 1": (1, 3, 32, 32), "ResNet-18, 32x32 pixels, batch 128": (128, 3, 32, 32)},
    ),
}


def main(argv: list[str] | None = None) -> int:
    """Measure what the JSON file lacks, print the tables, and with `--write` insert them into a document."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, required=True, help="file with measurements, which is extended")
    parser.add_argument("--rounds", type=int, default=7, help="number of rounds; medians are shown")
    parser.add_argument("--write", type=Path, help="Markdown file whose tables are replaced")
    options = parser.parse_args(argv)
    if options.rounds < 1:
        parser.error("--rounds must be at least 1")
    try:
        document = None if options.write is None else split_document(options.write, START, END)
    except InputError as error:
        parser.error(str(error))
    results = json.loads(options.json.read_text(encoding="utf-8")) if options.json.exists() else {}
    results.setdefault("machine", describe_machine() | {"threads": torch.get_num_threads()})
    for name, run in _measurements(options.rounds).items():
        if name not in results:
            results[name] = run()
            write_text(options.json, json.dumps(results))
    text = "\n\n".join([_products(results), _networks(results), _conditions(results, options.rounds)])
    print(text)
    if document is not None:
        write_text(options.write, f"{document[0]}\n\n{text}\n\n{document[1]}")
    return 0


def _measurements(rounds: int) -> dict[str, Callable[[], Any]]:
    """Return everything to measure, by the name under which the JSON file stores it."""
    found: dict[str, Callable[[], Any]] = {}
    for outputs, inputs in SHAPES:
        for rows in ROWS:
            name = f"{outputs}x{inputs}, {rows}"
            found[name] = partial(measure_product, outputs, inputs, rows, SPARSITIES, rounds)
    for make, examples in NETWORKS.values():
        for name, shape in examples.items():
            for sparsity in NETWORK_SPARSITIES:
                found[f"{name}, {sparsity}"] = partial(_measure_network, make, sparsity, shape, rounds)
    return found


def _measure_network(
    make: Callable[[float], nn.Module], sparsity: float, shape: Sequence[int], rounds: int
) -> dict[str, Any]:
    report = measure_network(make(sparsity), shape, rounds)
    return {
        "before": [*report.before],
        "after": [*report.after],
        "converted": len(report.converted),
        "layers": len(report.layers),
    }


def _products(results: dict[str, Any]) -> str:
    head = ["Outputs x inputs", "Rows", *(f"{sparsity:.0%}" for sparsity in SPARSITIES), "Faster from"]
    rows = []
    for outputs, inputs in SHAPES:
        for number in ROWS:
            found = results[f"{outputs}x{inputs}, {number}"]
            # JSON has turned the sparsities into text
            speeds = {float(sparsity): statistics.median(ratios) for sparsity, ratios in found.items()}
            limit = break_even(speeds)
            shown = "never" if limit is None else f"{'below ' if limit == min(speeds) else ''}{limit:.0%}"
            cells = (f"{speeds[sparsity]:.2f}" for sparsity in SPARSITIES)
            rows.append([f"{outputs} x {inputs}", str(number), *cells, shown])
    return table(head, rows)


def _networks(results: dict[str, Any]) -> str:
    head = ["Network", "Dense, ms", *(f"{sparsity:.0%} zeros" for sparsity in NETWORK_SPARSITIES)]
    rows = []
    for _, examples in NETWORKS.values():
        for name in examples:
            found = [results[f"{name}, {sparsity}"] for sparsity in NETWORK_SPARSITIES]
            dense = statistics.median(second for result in found for second in result["before"])
            rows.append([name, f"{1e3 * dense:,.1f}", *map(_speed, found)])
    return table(head, rows)


def _speed(result: dict[str, Any]) -> str:
    if not result["converted"]:
        return "1 (stays dense)"
    ratios = [one / other for one, other in zip(result["before"], result["after"], strict=True)]
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"


def _conditions(results: dict[str, Any], rounds: int) -> str:
    machine = results["machine"]
    return (
        f"Measured in {rounds} rounds with {machine['threads']} threads on {machine['processor']} "
        f"({machine['instructions']}), Python {machine['python']}, torch {machine['torch']}."
    )


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
