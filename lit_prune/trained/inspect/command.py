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
        "Show a trained network layer by layer: shape, sparsity, magnitudes, frozen or not, and FLOPs.",
    )
    parser.add_argument("--format", type=Literal["table", "json", "csv"], default="table", help="Format of the output.")
    parser.add_argument(
        "--input_size",
        type=int | list[int] | None,
        default=None,
        help="Input to count FLOPs for: height and width of an image in pixels, or the shape of one input, such as "
        "[3,32,32] (default: the model's example input, or else 32).",
    )
    parser.add_argument(
        "--plot",
        type=str | None,
        default=None,
        help="PNG file for two plots, of the layers and of the magnitudes of weights; or an existing folder, for one "
        "file per plot.",
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
