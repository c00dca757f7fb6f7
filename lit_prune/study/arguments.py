"""An argument parser of the standard library that answers a mistake with one sentence."""

import argparse
import difflib
import re
from pathlib import Path
from typing import Any, NoReturn

from lit_prune.errors import InputError, expected, shorten

__all__ = ["SentenceParser", "check_path"]

# of Linux, macOS and Windows
_LONGEST_NAME = 255
_TYPES = {"int": "a whole number", "float": "a number"}


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
        if match := re.fullmatch(r"argument (\S+): invalid (\w+) value: '(.*)'", message, re.DOTALL):
            what = f"`{match[1]}` to be {_TYPES.get(match[2], match[2])}"
            raise expected(what, f"`{shorten(match[3])}`", "check the value")
        if match := re.fullmatch(r"argument (\S+): expected (?:at least )?one argument", message):
            raise expected(f"a value after `{match[1]}`", "none", "give it as the next word")
        if match := re.fullmatch(r"argument (\S+): ignored explicit argument '(.*)'", message, re.DOTALL):
            raise expected(f"`{match[1]}` without a value", f"`{shorten(match[2])}`", "leave the value out")
        raise expected(self._wanted, shorten(message), self._hint)

    def unknown(self, word: str, what: str, hint: str) -> InputError:
        """Say that a word is none of the options, naming the nearest one.

        Args:
            word: What was typed.
            what: What was expected in its place.
            hint: What to do if no option is near.
        """
        known = [option for action in self._actions for option in action.option_strings if option.startswith("--")]
        near = difflib.get_close_matches(word, known, n=1)
        return expected(what, f"`{shorten(word)}`", f"did you mean `{near[0]}`" if near else hint)


def check_path(what: str, path: str | Path) -> None:
    """Refuse what no system takes as a path.

    Args:
        what: Whose it is, for the message.
        path: What was given.

    Raises:
        InputError: If it is empty or has a name that is too long.
    """
    if not str(path):
        raise expected(f"{what} to be a path", "nothing", "give one, or leave the option out")
    if any(len(part.encode(errors="replace")) > _LONGEST_NAME for part in Path(path).parts):
        found = f"`{shorten(str(path))}`"
        raise expected(f"{what} to be a path of names up to {_LONGEST_NAME} bytes each", found, "check the path")
