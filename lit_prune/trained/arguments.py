"""What is typed after a command on a trained network: one parser, whose mistakes are one sentence."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from lit_prune.cli.parser import NamedConfig, OneLineParser, one_sentence_errors
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import expected

__all__ = ["check_output", "check_picture", "make_parser", "parse"]


def make_parser(command: str, description: str, *, data: bool = False) -> OneLineParser:
    """Make the parser of a command, to which it adds its own options.

    Args:
        command: The command, for example "inspect".
        description: What it does, for `--help`.
        data: Whether it can score images: adds `--data.NAME` and `--limit`.
    """
    parser = OneLineParser(prog=f"lit-prune {command}", description=description, allow_abbrev=False)
    parser.add_argument("checkpoint", type=str, help="A checkpoint of a Trainer, or a state dict.")
    parser.add_argument("-c", "--config", action=NamedConfig, help="A YAML file with options.")
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="module.Class, a LightningModule, for checkpoints that are not of `lit-prune fit`; its arguments come "
        "from the checkpoint.",
    )
    if data:
        parser.add_argument("--limit", type=int | None, default=None, help="Score this many images at most.")
        parser.add_class_arguments(CIFAR10DataModule, "data", sub_configs=False)
    return parser


def parse(parser: OneLineParser, argv: Sequence[str]) -> Namespace:
    """Parse what was typed.

    Args:
        parser: From `make_parser`.
        argv: The command and its options.

    Returns:
        The options. `data` holds only those of its options that were typed: the others are the checkpoint's.

    Raises:
        InputError: If they cannot be parsed.
        SystemExit: After `--help`.
    """
    rest = list(argv[1:])
    if not {"-h", "--help"} & set(rest) and not _has_file(parser, rest):
        usage = f"`{parser.prog} CHECKPOINT [options]`; `--help` lists the options"
        raise expected("the path of a checkpoint after the command", "none", usage)
    with one_sentence_errors(rest):
        given: Namespace = parser.parse_args(rest)
        typed: Namespace = parser.parse_args(rest, defaults=False)
    if "data" in given:
        given.data = typed.get("data") or Namespace()  # type: ignore[no-untyped-call]
    if given.get("limit") is not None and given.limit < 1:
        raise expected("`--limit` to be at least 1", given.limit, "leave it out to score all images")
    if given.model is not None and os.getcwd() not in sys.path:  # as for the classes given to `fit`
        sys.path.insert(0, os.getcwd())
    return given


def _has_file(parser: OneLineParser, argv: Sequence[str]) -> bool:
    """Whether a word may be the checkpoint: one that is neither an option nor the value of one."""
    flags = {name for action in parser._actions if action.nargs == 0 for name in action.option_strings}
    takes = (word.startswith("-") and "=" not in word and word not in flags for word in argv)
    values = {n + 1 for n, takes_one in enumerate(takes) if takes_one}
    return any(not word.startswith("-") for n, word in enumerate(argv) if n not in values)


def check_output(path: str, *inputs: str, option: str = "--output") -> Path:
    """Refuse, before any work, a file that could not be written or would take the place of an input.

    Args:
        path: The file.
        inputs: Files that stay as they are.
        option: What the path was given to, for messages.

    Raises:
        InputError: If the file is a folder or one of the inputs, or its folder is not there.
        OSError: If nothing can be written there.
    """
    output = Path(path)
    if not path or output.is_dir():
        found = f"the folder `{path}`" if path else "nothing"
        raise expected(f"`{option}` to be a file", found, f"for example `{output / 'model.out'}`")
    if not output.parent.is_dir():
        raise expected(f"`{option}` in a folder that is there", f"`{path}`", f"make `{output.parent}` first")
    for given in inputs:
        if output.resolve() == Path(given).resolve():
            raise expected(f"`{option}` beside the checkpoint", f"`{path}`, the same file", "give another name")
    with tempfile.TemporaryFile(dir=output.parent):  # whether it may be written to is best asked by trying
        pass
    return output


def check_picture(option: str, path: str) -> Path:
    """Check, before any work, that a PNG file can be written.

    Args:
        option: Name of the option that gave the path, for messages.
        path: The file.

    Raises:
        InputError: If the name does not end in .png, or its folder does not exist.
        OSError: If the folder cannot be written to.
    """
    if Path(path).suffix.lower() != ".png" or Path(path).is_dir():
        raise expected(f"`{option}` to be a PNG file", f"`{path}`", f"for example `{option} layers.png`")
    return check_output(path, option=option)
