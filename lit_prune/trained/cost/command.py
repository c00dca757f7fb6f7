"""`lit-prune cost`: measure FLOPs, file size and latency of networks, each run in several ways."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from lit_prune.cli.parser import make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.errors import check_integer, expected
from lit_prune.trained.cost.measure import check_measuring, compare
from lit_prune.trained.cost.text import format_json, format_table
from lit_prune.trained.cost.variants import has_onnx
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import find_data_class, score_split, wants_scores

_MAX_THREADS = 1024


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune cost` and return its exit status."""
    return run_command(_cost, argv)


def _cost(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser(
        "cost",
        "Measure FLOPs, file size and latency of a network, run in several ways: with its zeros, with random values "
        "instead of zeros, without kernel positions that only ever see padding, accelerated, in 8 bits, and in ONNX "
        "Runtime. With --limit or any --data option, also measure its accuracy on test images.",
        data="any",
        data_class=find_data_class(argv),
    )
    parser.add_argument(
        "--against", type=str, action="append", default=[], help="Another checkpoint to compare with; repeatable."
    )
    parser.add_argument("--batches", type=int | list[int], default=[1, 128], help="Batch sizes of the timed calls.")
    parser.add_argument("--rounds", type=int, default=11, help="Number of times to measure each latency.")
    parser.add_argument("--threads", type=int | None, default=None, help="Number of CPU threads (default: torch's).")
    parser.add_argument(
        "--input_size",
        type=int | list[int] | None,
        default=None,
        help="Height and width of the images, in pixels, or the shape of one input, such as [784] (default: inputs "
        "like the `example_input_array` of the first network, or images of 32x32 pixels if it has none).",
    )
    parser.add_argument("--onnx", type=bool, default=True, help="Whether to measure in ONNX Runtime too.")
    parser.add_argument("--format", type=Literal["table", "json"], default="table", help="Format of the output.")
    options = parse_checkpoint_command(parser, argv)
    batches = [options.batches] if isinstance(options.batches, int) else options.batches
    check_measuring(options.input_size, batches, options.rounds)
    if options.threads is not None:
        check_integer("--threads", options.threads, 1, _MAX_THREADS, hint="leave it out for torch's default")
    names = _shortest_names([options.checkpoint, *options.against])
    networks = {name: load_network(path, options.model) for path, name in names.items()}
    models = {name: network.require_model() for name, network in networks.items()}
    scores = {}
    if wants_scores(options):
        scores = {name: score_split(models[name], network, options) for name, network in networks.items()}
    onnx = options.onnx and has_onnx()
    if options.onnx and not onnx:
        print(
            "lit-prune: skipping ONNX Runtime, because its packages are not installed. Install them with `pip install "
            "'lit-prune[export]'`.",
            file=sys.stderr,
        )
    with _use_threads(options.threads):
        comparison = compare(models, options.input_size, batches, options.rounds, onnx)
    print((format_json if options.format == "json" else format_table)(comparison, scores))


def _shortest_names(paths: Sequence[str]) -> dict[str, str]:
    """Name each checkpoint by the end of its path, with just enough folders to tell the checkpoints apart.

    Raises:
        InputError: If a checkpoint is given twice.
    """
    parts = {path: Path(path).resolve().parts for path in paths}
    for path in paths:
        if sum(other == parts[path] for other in parts.values()) > 1 or list(paths).count(path) > 1:
            raise expected("each checkpoint to be given once", f"`{path}` twice", "leave one of them out")
    names = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        length = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names[path] = "/".join(own[-length:])
    return names


@contextmanager
def _use_threads(number: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
