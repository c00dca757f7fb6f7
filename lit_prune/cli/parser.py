"""The argument parser of all commands. It reports an invalid argument in one sentence.

This module imports neither torch nor Lightning, so that `lit-prune report` starts quickly.
"""

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NoReturn

from jsonargparse import (  # type: ignore[attr-defined]  # its documentation says that ActionConfigFile is public
    ActionConfigFile,
    ArgumentParser,
    DefaultHelpFormatter,
    Namespace,
    set_parsing_settings,
)

from lit_prune.cli.configs import find_config, load_config
from lit_prune.cli.parse_errors import explain
from lit_prune.errors import check_integer, expected, shorten

# Configurations must not call functions such as `os.system`. If a denylist is set, even an empty one, jsonargparse
# refuses such calls; otherwise it only warns.
set_parsing_settings(import_path_denylist=[])

_LONGEST_NAME = 255  # bytes; the limit for a file name on Linux, macOS and Windows


class _ParseError(Exception):
    """An error of `CommandParser`, with the options that the parser accepts."""

    def __init__(self, message: str, options: Sequence[str]) -> None:
        super().__init__(message)
        self.options = options


class _HelpFormatter(DefaultHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        # do not offer the callbacks that every run adds
        text = re.sub(r", lit_prune\.training\.[\w.]+", "", super()._get_help_string(action))
        if action.default in (None, []) or action.nargs == 0 or "(default: " in (action.help or ""):
            return text.replace(" (default: %(default)s)", "").replace(", default: %(default)s", "")
        return text


class ConfigOption(ActionConfigFile):
    """The action of `--config`, which also accepts the name of a shipped configuration."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Read one configuration; its options override options parsed before."""
        path = find_config(values)
        load_config(path)  # its errors name the file
        super().__call__(parser, namespace, path, option_string)  # type: ignore[no-untyped-call]


class CommandParser(ArgumentParser):
    """A `jsonargparse.ArgumentParser` that prints no usage on an error; `one_sentence_errors` explains its errors.

    Attributes:
        data_class: Base class of the classes that `--data` accepts; None if `--data` takes no class.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        settings.setdefault("allow_abbrev", False)  # an abbreviated option is most likely a typo
        super().__init__(*args, formatter_class=_HelpFormatter, **settings)
        self.data_class: type | None = None

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise an exception that `one_sentence_errors` turns into one sentence."""
        if not self.exit_on_error:  # a nested parser, which tries one of several types for a value
            super().error(message, ex)
        raise _ParseError(message, self._known_options()) from ex

    def _known_options(self) -> list[str]:
        """List the options of this parser and of its subcommands, including the arguments of default classes."""
        names: list[str] = []
        for action in self._actions:
            names += [name for name in action.option_strings if name.startswith("--") and name.isprintable()]
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser._known_options()
        # for example --model.optimizer.lr, an argument of the default class of --model.optimizer
        defaults = vars(self.get_defaults().as_flat())
        names += [f"--{key.replace('.init_args.', '.')}" for key in defaults if ".init_args." in key]
        return sorted(set(names))


@contextmanager
def one_sentence_errors(argv: Sequence[str]) -> Iterator[None]:
    """Turn the errors of a `CommandParser` that parses `argv` into an `InputError` of one sentence."""
    try:
        yield
    except _ParseError as error:
        raise explain(str(error), argv, error.options) from error


def make_checkpoint_parser(
    command: str, description: str, *, data: Literal["images", "any"] | None = None, data_class: type | None = None
) -> CommandParser:
    """Make a parser with the options that all commands on a trained network share.

    With `data`, these include `--data.NAME` and `--limit`, which choose the images on which accuracy is measured; with
    "any", also `--metric`. With `data_class`, a base class of data modules, `--data` names a subclass, and
    `--data.NAME` are its arguments.
    """
    parser = CommandParser(prog=f"lit-prune {command}", description=description)
    parser.data_class = data_class
    parser.add_argument("checkpoint", type=str, help="File with a Lightning checkpoint or a state dict.")
    parser.add_argument("-c", "--config", action=ConfigOption, help="YAML file with options.")
    parser.add_argument(
        "--model",
        type=str | None,
        default=None,
        help="Class of the network, a LightningModule, as module.Class (default: LitResNet18, if the file holds its "
        "weights). The arguments of the class are read from the checkpoint.",
    )
    if data is not None:
        parser.add_argument("--limit", type=int | None, default=None, help="Measure accuracy on at most N images.")
    if data == "any":
        parser.add_argument(
            "--metric",
            type=str | None,
            default=None,
            help="With --data module.Class: metric that the network logs, a fraction from 0 to 1; higher is better "
            '(default: the first metric whose name contains "acc").',
        )
    if data_class is not None:
        parser.add_subclass_arguments(data_class, "data", required=False)
    elif data is not None:
        from lit_prune.data import CIFAR10DataModule

        parser.add_class_arguments(CIFAR10DataModule, "data", sub_configs=False)
    return parser


def parse_checkpoint_command(parser: CommandParser, argv: Sequence[str]) -> Namespace:
    """Parse `argv`, the name of a command and its arguments, with a parser from `make_checkpoint_parser`.

    `data` in the result holds only options that the user set; the command takes the others from the checkpoint.
    """
    with one_sentence_errors(argv[1:]):
        # arguments of a data module that the user leaves out may be in the checkpoint
        partial: Any = {"_skip_validation": parser.data_class is not None}
        options: Namespace = parser.parse_args(argv[1:], **partial)
        given: Namespace = parser.parse_args(argv[1:], defaults=False, **partial)
        if parser.data_class is not None:
            try:
                complete: Any = vars(options) | {"data": None}
                parser.validate(Namespace(**complete))  # type: ignore[no-untyped-call]
            except TypeError as error:
                parser.error(str(error), error)
    if "data" in options:
        options.data = given.get("data") or Namespace()  # type: ignore[no-untyped-call]
    if options.get("limit") is not None:
        check_integer("--limit", options.limit, 1, hint="leave it out to use all images")
    if options.get("metric") is not None and parser.data_class is None:
        raise expected("a data module of your own with `--metric`", "none", "name it with `--data module.Class`")
    if options.model is not None and os.getcwd() not in sys.path:  # the class may be in the current folder
        sys.path.insert(0, os.getcwd())
    return options


def check_path(what: str, path: str) -> None:
    """Raise an `InputError` if a path is empty, or a file or folder name in it is too long; `what` names the option."""
    if not path:
        raise expected(f"{what} to be a path", "an empty value", "give the path of a file or folder")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in Path(path).parts):
        limit = f"{what} to be a path whose file and folder names have at most {_LONGEST_NAME} bytes"
        raise expected(limit, f"`{shorten(path)}`", "choose a shorter name")


def check_output(path: str, *inputs: str, option: str = "--output") -> Path:
    """Check, before a command starts to work, that an output file can be written and replaces none of the inputs.

    Raises:
        InputError: If the path is empty, a folder or one of the inputs, or if its folder does not exist.
        OSError: If nothing can be written into the folder.
    """
    output = Path(path)
    if not path or output.is_dir():
        found = f"the folder `{path}`" if path else "an empty value"
        raise expected(f"`{option}` to be a file", found, f"for example `{output / 'model.out'}`")
    if output.exists() and not output.is_file():  # writing would replace it, even `/dev/null`
        raise expected(f"`{option}` to be a file", f"the device `{path}`", "give the name of a file")
    if not output.parent.is_dir():
        raise expected(f"`{option}` in an existing folder", f"`{path}`", f"create `{output.parent}` first")
    if any(output.resolve() == Path(given).resolve() for given in inputs):
        raise expected(f"`{option}` to differ from the checkpoint", f"`{path}`, the same file", "give another name")
    with tempfile.TemporaryFile(dir=output.parent):  # the most reliable test of whether the folder is writable
        pass
    return output


def check_picture(option: str, path: str) -> Path:
    """Check, before a command starts to work, that the path in an option ends in .png and can be written."""
    if Path(path).suffix.lower() != ".png" or Path(path).is_dir():
        raise expected(f"`{option}` to be a PNG file", f"`{path}`", f"for example `{option} layers.png`")
    return check_output(path, option=option)
