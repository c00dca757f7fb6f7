"""`lit-prune inspect`: a trained network, layer by layer."""

from collections.abc import Sequence
from typing import Literal

from lit_prune.cli.run_command import run_command
from lit_prune.cli.parser import make_checkpoint_parser, parse_checkpoint_command
from lit_prune.trained.inspect.text import as_csv, as_json, as_table
from lit_prune.trained.layers import inspect
from lit_prune.trained.network import load_network

__all__ = ["main"]

_FORMATS = {"table": as_table, "json": as_json, "csv": as_csv}


def main(argv: Sequence[str]) -> int:
    """Run `inspect`; see `lit-prune inspect --help`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if a figure could not be written, 2 for input that cannot be used.
    """
    return run_command(_inspect, argv)


def _inspect(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser(
        "inspect", "Show a trained network layer by layer: shape, sparsity, magnitudes, frozen or not, FLOPs."
    )
    parser.add_argument(
        "--format", type=Literal["table", "json", "csv"], default="table", help="What to print (default: table)."
    )
    parser.add_argument(
        "--input_size",
        type=int | list[int] | None,
        default=None,
        help="What to count FLOPs for: pixels of a side, or the shape of one input, such as [3,32,32] (default: the "
        "model's example input, or else 32).",
    )
    parser.add_argument(
        "--plot",
        type=str | None,
        default=None,
        help="Draw sparsity, weights and FLOPs of each layer, and a histogram of magnitudes with the thresholds of "
        "pruning: into one PNG file, or into two in a folder that is there.",
    )
    given = parse_checkpoint_command(parser, argv)
    if given.plot is not None:
        # matplotlib takes a second to import
        from lit_prune.trained.inspect.figures import check_plot, plot

        paths = check_plot(given.plot)
    network = load_network(given.checkpoint, given.model)
    found = inspect(network, given.input_size)
    if given.plot is not None:
        plot(network, found, paths)
    print(_FORMATS[given.format](found))
