"""`lit-prune inspect`: show a trained network layer by layer."""

from collections.abc import Sequence
from typing import Literal

from lit_prune.cli.parser import make_checkpoint_parser, parse_checkpoint_command
from lit_prune.cli.run_command import run_command
from lit_prune.trained.inspect.text import format_csv, format_json, format_table
from lit_prune.trained.layers import inspect
from lit_prune.trained.network import load_network

_FORMATS = {"table": format_table, "json": format_json, "csv": format_csv}


def main(argv: Sequence[str]) -> int:
    """Run `lit-prune inspect` and return its exit status."""
    return run_command(_inspect, argv)


def _inspect(argv: Sequence[str]) -> None:
    parser = make_checkpoint_parser(
        "inspect",
        "Show for each layer of a trained network its shape, sparsity, weight magnitudes, FLOPs, and whether it was "
        "frozen.",
    )
    parser.add_argument("--format", type=Literal["table", "json", "csv"], default="table", help="Format of the output.")
    parser.add_argument(
        "--input_size",
        type=int | list[int] | None,
        default=None,
        help="Input for which to count FLOPs: height and width of an image in pixels, or the shape of one input, such "
        "as [3,32,32] (default: the shape of the model's `example_input_array`, or 32 if it has none).",
    )
    parser.add_argument(
        "--plot",
        type=str | None,
        default=None,
        help="PNG file in which to draw two plots, one of the layers, one of the weights' magnitudes; or an existing "
        "folder, in which to write one file for each plot.",
    )
    options = parse_checkpoint_command(parser, argv)
    if options.plot is not None:
        # matplotlib takes a second to import
        from lit_prune.trained.inspect.figures import check_plot, plot

        paths = check_plot(options.plot)
    network = load_network(options.checkpoint, options.model)
    inspection = inspect(network, options.input_size)
    if options.plot is not None:
        plot(network, inspection, paths)
    print(_FORMATS[options.format](inspection))
