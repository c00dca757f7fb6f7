"""An argument parser that answers a mistake with one sentence."""

import argparse
from typing import Any, NoReturn

from jsonargparse import ActionConfigFile, ArgumentParser
from lightning.pytorch.cli import LightningArgumentParser

from lit_prune.cli.configs import find_config
from lit_prune.cli.explain import explain

__all__ = ["NamedConfig", "OneLineParser"]


class NamedConfig(ActionConfigFile):  # type: ignore[misc]
    """`--config`, which also takes the name of a configuration that ships."""

    def __call__(self, parser: ArgumentParser, cfg: Any, values: str, option_string: str | None = None) -> None:
        """Read one configuration into what was parsed before it."""
        super().__call__(parser, cfg, find_config(values), option_string)


class OneLineParser(LightningArgumentParser):  # type: ignore[misc]
    """A `LightningArgumentParser` whose errors are one sentence, not a page of usage."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the sentence that a person can act on.

        Raises:
            InputError: Always.
        """
        raise explain(message, self.args or [], self.known_options()) from ex

    def known_options(self) -> list[str]:
        """List every option that this parser and its subcommands take, nested defaults included."""
        names: list[str] = []
        for action in self._actions:
            names += [name for name in action.option_strings if name.startswith("--")]
            if isinstance(action, argparse._SubParsersAction):
                for parser in action.choices.values():
                    names += parser.known_options()
        # an option such as --model.optimizer.lr exists through the default of --model.optimizer alone
        names += [f"--{key.replace('.init_args.', '.')}" for key in self.get_defaults().keys() if ".init_args." in key]
        return sorted(set(names))
