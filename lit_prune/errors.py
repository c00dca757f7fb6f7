"""The one way in which lit-prune says that an input is wrong, or that a run could not end.

Every floor of the package may import this module; it imports nothing.
"""

from typing import Any

__all__ = ["InputError", "UnfinishedError", "expected", "shorten"]


class InputError(ValueError):
    """Something that the user gave cannot be used.

    The message is one sentence for a person: what was expected, what was found, and a hint.
    The command line prints it without a traceback; in Python it is a `ValueError`.
    """


class UnfinishedError(RuntimeError):
    """A run that had begun could not come to its end.

    The message is one sentence, in the pattern of `InputError`; nothing that was saved before is lost.

    Attributes:
        status: The exit status that tells it: 1, or 128 and the number of the signal that ended the run.
    """

    def __init__(self, sentence: str, status: int = 1) -> None:
        super().__init__(sentence)
        self.status = status


def expected(what: str, found: Any, hint: str) -> InputError:
    """Build the error of the house's one pattern.

    Args:
        what: What was expected, for example "`amount` in [0, 1)".
        found: What was found; strings are taken as they are, other values by their `repr`.
        hint: What the user can do about it, a phrase without a full stop at its end.

    Returns:
        The error, to be raised by the caller: "Expected {what}, but got {found}. HINT: {hint}."
    """
    shown = found if isinstance(found, str) else repr(found)
    return InputError(f"Expected {what}, but got {shown}. HINT: {hint}.")


def shorten(text: str, limit: int = 100) -> str:
    """Replace the middle of a text that is too long for a message, and say how long it was.

    Args:
        text: Any text.
        limit: Characters up to which it stays as it is.
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text)} characters)"
