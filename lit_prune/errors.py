"""`InputError` for wrong input or a missing package, `UnfinishedError` for commands that could not finish.

This module imports no other module of lit-prune, so every module can import it.
"""

from collections.abc import Collection, Iterable
from difflib import get_close_matches
from typing import Any


class InputError(ValueError):
    """Raised if a value or a file cannot be used, or a package is missing.

    The command line prints the message without a traceback.
    """


class UnfinishedError(RuntimeError):
    """Raised if a command started but could not finish. Files that were complete before the error stay intact.

    Args:
        message: What happened and what the user can do, as one or a few sentences.
        status: Exit status of the command: 1, or 128 plus the number of the signal that stopped the command.
    """

    def __init__(self, message: str, status: int = 1) -> None:
        super().__init__(message)
        self.status = status


def expected(what: str, found: Any, hint: str) -> InputError:
    """Build the error "Expected {what}, but got {found}. HINT: {hint}." for a value that cannot be used.

    Args:
        what: Description of the expected value, for example "`amount` in [0, 1)".
        found: Value received. A string is shown without quotes, any other value as its `repr`.
        hint: What the user can do, without a full stop at the end.
    """
    shown = found if isinstance(found, str) else repr(found)
    return InputError(f"Expected {what}, but got {shown}. HINT: {hint}.")


def check_choice(name: str, value: Any, choices: Collection[Any]) -> None:
    """Raise an `InputError` unless a value is one of the choices.

    Args:
        name: Name of the argument, for the message.
        value: Value to check.
        choices: Allowed values.
    """
    if value not in choices:
        names = ", ".join(map(repr, choices))
        hint = closest_hint(str(value), map(str, choices), "choose one of these")
        raise expected(f"`{name}` to be one of {names}", repr(value), hint)


def closest_hint(found: str, choices: Iterable[str], otherwise: str, before: str = "") -> str:
    """Return the hint "did you mean `...`" with the choice most similar to a misspelt value.

    Args:
        found: Value that is not among the choices.
        choices: Allowed values.
        otherwise: Hint to return if no choice is similar to the value.
        before: Text to show in front of the choice, such as "lit-prune ".
    """
    known = {choice.lower(): choice for choice in choices}
    near = get_close_matches(found.lower(), known, n=1)
    return f"did you mean `{before}{known[near[0]]}`" if near else otherwise


def check_integer(name: str, value: Any, low: int, high: int | None = None, *, hint: str) -> None:
    """Raise an `InputError` unless a value is an integer in a range; True and 3.0 do not count as integers.

    Args:
        name: Name of the argument, for the message.
        value: Value to check.
        low: Smallest allowed integer.
        high: Largest allowed integer; None sets no upper limit.
        hint: What the user can do.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < low or (high is not None and value > high):
        unlimited = {0: "a non-negative integer", 1: "a positive integer"}.get(low, f"an integer of at least {low}")
        kind = unlimited if high is None else f"an integer in [{low}, {high}]"
        raise expected(f"`{name}` to be {kind}", value, hint)


def shorten(text: str, limit: int = 100) -> str:
    """Replace the middle of a long text by "...", and append the original length.

    Args:
        text: Text to shorten.
        limit: A text of at most this number of characters is returned unchanged.
    """
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 4 :]} ({len(text)} characters)"


def first_few(names: Iterable[str]) -> str:
    """List the first three names, and count the others: "a, b, c and 2 more"."""
    names = list(names)
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def one_line(error: BaseException, limit: int = 200) -> str:
    """Return the first paragraph of an error's message as one line, or the class of the error if the message is empty.

    Args:
        error: Error that a library raised.
        limit: A line of at most this number of characters is not shortened.
    """
    return shorten(" ".join(str(error).split("\n\n")[0].split()).rstrip("."), limit) or type(error).__name__


def root_cause(error: BaseException) -> BaseException:
    """Return the first `InputError` among an error and its causes, or else the last cause.

    jsonargparse wraps the errors that a class raises in errors of its own.
    """
    while not isinstance(error, InputError) and (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    return error
