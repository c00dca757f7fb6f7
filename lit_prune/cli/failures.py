"""Which failures a person can act on, and the one sentence for each; anything else is a bug and shows its traceback."""

import difflib
import errno
import os
import re
import sys
from typing import NamedTuple

from lit_prune.errors import InputError, UnfinishedError, expected

__all__ = ["Failure", "describe_failure", "print_error"]

# what torch says, on the CPU and on others, when there is no memory left
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# what the back ends of torch.distributed say when another process of the run is gone
_LOST_PROCESS = ("connection closed by peer", "connection reset by peer", "broken pipe", "process exited", "gloo")

_SHOWN = 80


class Failure(NamedTuple):
    """What to tell a person.

    Attributes:
        sentence: What was expected, what was found, and a hint.
        status: The exit status: 2 for input that cannot be used, 1 or 128 + signal for a run that could not end.
    """

    sentence: str
    status: int


def describe_failure(error: BaseException, again: str = "the same command") -> Failure | None:
    """Say what a failure means to a person.

    Args:
        error: What ended a command.
        again: What goes on where it stopped, for hints.

    Returns:
        The sentence and the exit status; None for a failure that nobody has thought of, a bug.
    """
    # Lightning's word for settings that do not go together, by name: importing it takes seconds, a complaint should not
    if isinstance(error, InputError):
        return Failure(_one_line(error), 2)
    if (sentence := _of_metric(error)) is not None:
        return Failure(sentence, 2)
    if type(error).__name__ == "MisconfigurationException":
        found = _one_line(error).rstrip(".")
        return Failure(str(expected("settings that go together", found, "`--help` shows what each takes")), 2)
    if isinstance(error, UnfinishedError):
        return Failure(_one_line(error), error.status)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        found = f"`{str(error.filename)[:_SHOWN]}...`, one of whose names is too long"
        return Failure(str(expected("a path that this system takes", found, "check the path")), 2)
    if isinstance(error, OSError):
        return Failure(_of_files(error, again), 1)
    text = str(error).lower()
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and any(t in text for t in _NO_MEMORY)):
        found = _one_line(error).split(". ")[0].rstrip(".") or "none left"
        hint = f"take a smaller `--data.batch_size` or run less beside it; {again} goes on"
        return Failure(str(expected("enough memory for this run", f"none ({found})", hint)), 1)
    if isinstance(error, RuntimeError) and any(sign in text for sign in _LOST_PROCESS):
        hint = f"see what the other one printed; {again} goes on"
        return Failure(str(expected("all processes of this run to answer", "one that is gone", hint)), 1)
    return None


def print_error(error: BaseException, status: int, sentence: str | None = None) -> int:
    """Print an error as one sentence.

    Args:
        error: What went wrong. It is raised again if `LIT_PRUNE_TRACEBACK` is set, for those who debug.
        status: The exit status to return: 2 for input that cannot be used, 1 for a run that could not end.
        sentence: What to print; None takes the error's own words.

    Returns:
        `status`.
    """
    if os.environ.get("LIT_PRUNE_TRACEBACK"):
        raise error
    print(f"lit-prune: error: {' '.join((sentence or str(error)).split())}", file=sys.stderr)
    return status


def _of_metric(error: BaseException) -> str | None:
    """Say which metric a callback of Lightning's waits for in vain."""
    early = re.search(
        r"Early stopping conditioned on metric `(.*?)` which is not available\..*: (.*)", _one_line(error)
    )
    best = re.search(r"ModelCheckpoint\(monitor='(.*?)'\)` could not find .* metrics: \[(.*?)\]", _one_line(error))
    if (match := early or best) is None:
        return None
    logged = [name.strip("`' ") for name in match[2].split(",")]
    near = difflib.get_close_matches(match[1], logged, n=1)
    hint = f"did you mean `{near[0]}`" if near else f"these are logged: {', '.join(logged)}"
    return str(expected("`monitor` to name a metric that is logged", f"`{match[1]}`", hint))


def _of_files(error: OSError, again: str) -> str:
    found = (error.strerror or _one_line(error)).lower()
    if isinstance(error, FileNotFoundError) and error.filename:
        hint = "it was moved or removed, perhaps with its folder; put it back, or begin anew in another one"
        return str(expected(f"`{error.filename}` to stay while it is worked with", found, hint))
    what = f"to be able to read and write `{error.filename}`" if error.filename else "to be able to read and write"
    return str(expected(what, found, f"free some space, or check whose folder it is; {again} goes on"))


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())
