"""Measure what trained networks cost side by side, and write the table in docs/benchmarks.md.

    python scripts/cost_table.py dense=dense.ckpt pruned-90=pruned-90.ckpt --data_dir data --write docs/benchmarks.md

The first network is what the others are compared with; it must have no zeros. Its accuracy and theirs are those of
`lit-prune test`.
"""

import argparse
import sys
from pathlib import Path

import torch
from jsonargparse import Namespace

from lit_prune.cli.quiet import quiet
from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import write_text
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.trained.cost.measure import Comparison, Cost, check_measuring, compare
from lit_prune.trained.cost.variants import Kind
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import Score, accuracy, batches, data_module

START = "<!-- cost table: written by scripts/cost_table.py -->"
END = "<!-- end of the cost table -->"

WAYS: dict[Kind, str] = {
    "dense": "torch's own layers",
    "zeros": "torch's own layers",
    "masked": "the same, masks multiplied in",
    "lit-prune": "`LitResNet18`",
    "cropped": "torch's own layers, cropped",
    "onnx": "ONNX Runtime",
    "cropped onnx": "ONNX Runtime, cropped",
}


def main(argv: list[str] | None = None) -> int:
    """Measure, print, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="+", metavar="NAME=CHECKPOINT", help="what to measure, the dense one first")
    parser.add_argument("--source", choices=["synthetic", "cifar10"], default="cifar10", help="what to score on")
    parser.add_argument("--data_dir", default="data", help="folder of CIFAR-10's arrays")
    parser.add_argument("--limit", type=int, help="score this many test images at most")
    parser.add_argument("--rounds", type=int, default=21, help="turns of each")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 128], help="images in a call")
    parser.add_argument("--threads", type=int, help="CPU threads; as torch chooses if left out")
    parser.add_argument("--no_onnx", action="store_true", help="leave ONNX Runtime out")
    parser.add_argument("--write", type=Path, help="the document whose table to replace")
    options = parser.parse_args(argv)
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    try:
        document = None if options.write is None else _around(options.write)
        text = _measured(options)
    except InputError as error:
        parser.error(str(error))
    print(text)
    if document is not None:
        write_text(options.write, f"{document[0]}\n\n{text}\n\n{document[1]}")
    return 0


def _around(path: Path) -> tuple[str, str]:
    """What stands before and after the table in a document."""
    before, start, rest = path.read_text(encoding="utf-8").partition(START) if path.is_file() else ("", "", "")
    _, end, after = rest.partition(END)
    if not start or not end:
        raise expected(f"`--write` to name a document with the lines `{START}` and `{END}`", f"`{path}`", "add them")
    return before + start, end + after


def _measured(options: argparse.Namespace) -> str:
    check_measuring(32, options.batches, options.rounds)
    paths = dict(word.partition("=")[::2] for word in options.networks)
    networks = {name: load_network(path) for name, path in paths.items()}
    models = {name: network.require_model() for name, network in networks.items()}
    first = next(iter(models))
    if zeros := sparsity_report(weight_layers(models[first])).sparsity:
        raise expected("a first network without zeros", f"`{first}`, with {zeros:.1%}", "name the dense one first")
    scores = {}
    for name, network in networks.items():
        given = Namespace(data=Namespace(source=options.source, data_dir=options.data_dir))  # type: ignore[no-untyped-call]
        scores[name] = accuracy(models[name], batches(data_module(network, given), "test", options.limit))
    found = compare(models, 32, options.batches, options.rounds, onnx=not options.no_onnx)
    return "\n\n".join([_summary(found, scores), _ways(found), _told(found, scores)])


def _summary(found: Comparison, scores: dict[str, Score]) -> str:
    """One line a network, as torch's own layers compute it."""
    head = ["Network", "Accuracy", "Zeros", "MFLOPs (not zero)", "File, MB", "Compressed, MB"]
    for batch in found.batches:
        head += [f"ms, batch {batch}", "Speed"]
    rows = []
    for name in found.zeros:
        cost = _plain(found, name)
        variant = cost.variant
        row = [
            name,
            f"{scores[name].accuracy:.2%}",
            f"{found.zeros[name]:.1%}",
            f"{variant.flops.nominal / 1e6:.1f} ({variant.flops.nonzero / 1e6:.1f})",
            f"{variant.bytes / 1e6:.2f}",
            "" if variant.compressed is None else f"{variant.compressed / 1e6:.2f}",
        ]
        for batch in found.batches:
            latency = cost.latency[batch]
            row.append(f"{1e3 * latency.median:.2f} ({1e3 * latency.low:.2f} to {1e3 * latency.high:.2f})")
            row.append(f"{found.speed(cost, batch):.2f}")
        rows.append(row)
    return _table(head, rows)


def _ways(found: Comparison) -> str:
    """How fast each way to run each network is."""
    names = list(found.zeros)
    rows: dict[str, dict[str, str]] = {way: {} for way in WAYS.values()}
    for cost in found.costs:
        speeds = " / ".join(f"{found.speed(cost, batch):.2f}" for batch in found.batches)
        rows[WAYS[cost.variant.kind]][cost.variant.network] = f"{speeds} ({cost.variant.bytes / 1e6:.1f} MB)"
    shown = [[way, *(cells.get(name, "") for name in names)] for way, cells in rows.items() if cells]
    return _table([f"Speed, batch {' / '.join(map(str, found.batches))} (file)", *names], shown)


def _told(found: Comparison, scores: dict[str, Score]) -> str:
    """How it was measured, and what follows."""
    machine = found.machine
    rounds = len(found.costs[0].latency[found.batches[0]].seconds)
    images = " or ".join(f"{number:,}" for number in sorted({score.images for score in scores.values()}))
    difference = max(cost.difference for cost in found.costs if cost.difference is not None)
    measured = (
        f"{rounds} rounds with {found.threads} thread{'' if found.threads == 1 else 's'} on {machine['processor']} "
        f"({machine['instructions']}), Python {machine['python']}, torch {machine['torch']}; accuracy on {images} test "
        f"images. The ways to run a network differ in their logits by at most {difference:.0e}."
    )
    first, *others = found.zeros
    dense = _plain(found, first)
    sentences = []
    for name in others:
        cost = _plain(found, name)
        times = " and ".join(f"{cost.latency[b].over(dense.latency[b]):.2f} (batch {b})" for b in found.batches)
        if found.zeros[name] > 0:
            sentences.append(
                f"- Unstructured zeros do not speed up dense kernels: {name}, {found.zeros[name]:.1%} zeros, takes "
                f"{times} times as long as {first}."
            )
        else:
            faster = " and ".join(f"{found.speed(cost, batch):.2f} (batch {batch})" for batch in found.batches)
            sentences.append(
                f"- {name}, {cost.variant.parameters / dense.variant.parameters:.1%} of the parameters, is {faster} "
                f"times as fast as {first}."
            )
    return "\n".join([measured, "", *sentences])


def _plain(found: Comparison, network: str) -> Cost:
    cost = found.find(network, "zeros") or found.find(network, "dense")
    assert cost is not None  # noqa: S101 - every network has one of them
    return cost


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


if __name__ == "__main__":
    with quiet():
        sys.exit(main())
