"""An argument parser of the standard library that answers a mistake with one sentence."""

import argparse
import difflib
from typing import Any, NoReturn

from lit_prune.errors import InputError, expected

__all__ = ["SentenceParser"]


class SentenceParser(argparse.ArgumentParser):
    """Parses the words after a command of ours.

    Args:
        command: The command, for example "lit-prune report".
        wanted: What it takes, for messages.
        hint: What to do after a mistake.
        settings: Further arguments of `argparse.ArgumentParser`.
    """

    def __init__(self, command: str, wanted: str, hint: str, **settings: Any) -> None:
        # an abbreviation is a typo that happens to fit
        super().__init__(prog=command, allow_abbrev=False, **settings)
        self._wanted, self._hint = wanted, hint

    def error(self, message: str) -> NoReturn:
        """Leave parsing with one sentence."""
        raise expected(self._wanted, message, self._hint)

    def unknown(self, word: str, what: str, hint: str) -> InputError:
        """Say that a word is none of the options, naming the nearest one.

        Args:
            word: What was typed.
            what: What was expected in its place.
            hint: What to do if no option is near.
        """
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        near = difflib.get_close_matches(word, known, n=1)
        return expected(what, f"`{word}`", f"did you mean `{near[0]}`" if near else hint)
