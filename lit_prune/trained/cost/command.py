"""`lit-prune cost`: what a network costs to store and to run, and what makes it cost less."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import torch

from lit_prune.cli.run_command import run_command
from lit_prune.errors import expected
from lit_prune.cli.parser import make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.cost.measure import check_measuring, compare
from lit_prune.trained.cost.text import as_json, as_table
from lit_prune.trained.cost.variants import has_onnx
from lit_prune.trained.network import load_network
from lit_prune.trained.scoring import accuracy, batches, data_module, typed_data

__all__ = ["main"]

_MOST_THREADS = 1024


def main(argv: Sequence[str]) -> int:
    """Run `cost`; see `lit-prune cost --help`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if files could not be read on the way, 2 for input that cannot be used.
    """
    return run_command(_cost, argv)


def _cost(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser(
        "cost",
        "Measure FLOPs, bytes and latency of a network: its zeros, masks, cropped kernels and exported file side by "
        "side, and beside other checkpoints; with any of --data.NAME and --limit, its accuracy on test images too.",
        data=True,
    )
    parser.add_argument(
        "--against", type=str, action="append", default=[], help="Another checkpoint to measure beside it; repeatable."
    )
    parser.add_argument(
        "--batches", type=int | list[int], default=[1, 128], help="Images in a call (default: [1,128])."
    )
    parser.add_argument("--rounds", type=int, default=11, help="Turns that each has (default: 11).")
    parser.add_argument("--threads", type=int | None, default=None, help="CPU threads (default: as torch chooses).")
    parser.add_argument("--input_size", type=int, default=32, help="Height and width of the images, in pixels.")
    parser.add_argument("--onnx", type=bool, default=True, help="Export, and measure ONNX Runtime (default: true).")
    parser.add_argument("--format", type=Literal["table", "json"], default="table", help="What to print.")
    given = parse_checkpoint_command(parser, argv)
    sizes = [given.batches] if isinstance(given.batches, int) else given.batches
    check_measuring(given.input_size, sizes, given.rounds)
    _check_threads(given.threads)
    names = _names([given.checkpoint, *given.against])
    networks = {name: load_network(path, given.model) for path, name in names.items()}
    models = {name: network.require_model() for name, network in networks.items()}
    scores = {}
    if typed_data(given) or given.limit is not None:
        for name, network in networks.items():
            scores[name] = accuracy(models[name], batches(data_module(network, given), "test", given.limit))
    if given.onnx and not has_onnx():
        print('lit-prune: ONNX Runtime is left out; for it: pip install "lit-prune[export]"', file=sys.stderr)
    with _threads(given.threads):
        found = compare(models, given.input_size, sizes, given.rounds, given.onnx and has_onnx())
    print((as_json if given.format == "json" else as_table)(found, scores))


def _names(paths: Sequence[str]) -> dict[str, str]:
    """Call each checkpoint by the end of its path that no other has.

    Raises:
        InputError: If one is given twice.
    """
    parts = {path: Path(path).resolve().parts for path in paths}
    for path in paths:
        if sum(other == parts[path] for other in parts.values()) > 1 or list(paths).count(path) > 1:
            raise expected("`--against` to name other checkpoints", f"`{path}` twice", "leave one of them out")
    names = {}
    for path, own in parts.items():
        others = [other for name, other in parts.items() if name != path]
        length = next(n for n in range(1, len(own) + 1) if all(other[-n:] != own[-n:] for other in others))
        names[path] = "/".join(own[-length:])
    return names


def _check_threads(number: int | None) -> None:
    if number is not None and number not in range(1, _MOST_THREADS + 1):
        raise expected(f"`--threads` in [1, {_MOST_THREADS}]", number, "leave it out to use all cores")


@contextmanager
def _threads(number: int | None) -> Iterator[None]:
    """Compute with some number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
