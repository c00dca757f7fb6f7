"""An argument parser that answers a mistake with one sentence."""

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn

from jsonargparse import (  # type: ignore[attr-defined]  # the first is public, by its documentation
    ActionConfigFile,
    set_parsing_settings,
)
from lightning.pytorch.cli import LightningArgumentParser

from lit_prune.cli.configs import find_config
from lit_prune.cli.parse_errors import explain
from lit_prune.errors import expected
from lit_prune.files.yaml import check_yaml

__all__ = ["NamedConfig", "OneLineParser", "one_sentence_errors"]

# jsonargparse knows functions that nobody wants called from a configuration (`os.system`); by itself it warns alone
set_parsing_settings(import_path_denylist=[])


class _ParseError(Exception):
    """What a parser complained about, and which options it knows."""

    def __init__(self, message: str, options: Sequence[str]) -> None:
        super().__init__(message)
        self.options = options


class NamedConfig(ActionConfigFile):
    """`--config`, which also takes the name of a configuration that ships."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: Any, values: Any, option_string: str | None = None
    ) -> None:
        """Read one configuration into what was parsed before it."""
        path = find_config(values)
        try:
            check_yaml(path)
            super().__call__(parser, namespace, path, option_string)  # type: ignore[no-untyped-call]
        except (OSError, UnicodeDecodeError) as error:
            raise expected("`--config` to hold YAML that can be read", str(error), f"check `{path}`") from error


class OneLineParser(LightningArgumentParser):
    """A `LightningArgumentParser` whose errors can be explained in one sentence, not a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Leave parsing, with what `one_sentence_errors` needs to build the sentence."""
        if not self.exit_on_error:  # a parser inside the parser, whose failure may be one of several tries
            super().error(message, ex)
        raise _ParseError(message, self._known_options()) from ex

    def _known_options(self) -> list[str]:
        """List every option that this parser and its subcommands take, nested defaults included."""
        names: list[str] = []
        for action in self._actions:
            names += [name for name in action.option_strings if name.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser._known_options()
        # an option such as --model.optimizer.lr exists through the default of --model.optimizer alone
        defaults = vars(self.get_defaults().as_flat())
        names += [f"--{key.replace('.init_args.', '.')}" for key in defaults if ".init_args." in key]
        return sorted(set(names))


@contextmanager
def one_sentence_errors(argv: Sequence[str]) -> Iterator[None]:
    """Turn what a `OneLineParser` complains about into one sentence.

    Args:
        argv: The words that are parsed inside.

    Raises:
        InputError: If they cannot be parsed.
    """
    try:
        yield
    except _ParseError as error:
        raise explain(str(error), argv, error.options) from error
