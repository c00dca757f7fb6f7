"""Describe, in one line, each error that a user can act on. Any other error is a bug, shown with its traceback."""

import errno
import os
import re
import sys
from typing import NamedTuple

from lit_prune.errors import InputError, UnfinishedError, closest_hint, expected, shorten

# parts of torch's messages when CPU or GPU memory is full
_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
# parts of the messages of torch.distributed when another process of the run has stopped
_LOST_PROCESS = ("connection closed by peer", "connection reset by peer", "broken pipe", "process exited", "gloo")

_AGAIN = "run the same command again"
_REMEDIES = {
    errno.ENOSPC: "Free some space",
    errno.EDQUOT: "Free some space",
    errno.EACCES: "Check the permissions of the file and its folder",
    errno.EPERM: "Check the permissions of the file and its folder",
    errno.EROFS: "Choose another folder, or make this one writable",
    errno.ENOENT: "Restore the file or folder if it was moved or deleted",
}


class Failure(NamedTuple):
    """Message and exit status for an error.

    Attributes:
        sentence: One line that says what happened and what to do.
        status: Exit status: 2 for invalid input, 1 or 128 + signal for a command that did not finish.
    """

    sentence: str
    status: int


def describe_failure(error: BaseException) -> Failure | None:
    """Describe an error for the user; return None if the error is a bug."""
    message = " ".join(str(error).split())
    if isinstance(error, InputError | UnfinishedError):
        return Failure(message, getattr(error, "status", 2))
    if (sentence := _missing_metric(message)) is not None:
        return Failure(sentence, 2)
    if isinstance(error, AttributeError) and "using the learning rate finder" in message:
        hint = "set `self.lr` in `__init__`, and use it in `configure_optimizers`"
        return Failure(str(expected("a model with an attribute `lr`, for LearningRateFinder", "none", hint)), 2)
    if type(error).__name__ == "MisconfigurationException":  # by name, because importing Lightning takes seconds
        hint = "`--help` lists the options"
        return Failure(str(expected("options that Lightning accepts", message.rstrip("."), hint)), 2)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        found = f"`{shorten(str(error.filename))}`"
        return Failure(str(expected("a path with shorter file names", found, "choose a shorter name")), 2)
    if isinstance(error, OSError):
        where = f": `{error.filename}`" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "Check the path and the disk")
        return Failure(f"{error.strerror or message}{where}. {remedy}, then {_AGAIN}.", 1)
    if isinstance(error, MemoryError | RuntimeError):
        lower = message.lower()
        if isinstance(error, MemoryError) or any(part in lower for part in _NO_MEMORY):
            detail = message.split(". ")[0].rstrip(".")
            remedy = f"Use a smaller `--data.batch_size` or stop other programs, then {_AGAIN}."
            return Failure(f"Out of memory{detail and f' ({detail})'}. {remedy}", 1)
        if any(part in lower for part in _LOST_PROCESS):
            return Failure(f"Another process of this run stopped. Fix the error that it reported, then {_AGAIN}.", 1)
    return None


def print_error(error: BaseException) -> int:
    """Print the sentence of `describe_failure` on stderr, and return the exit status.

    The error is raised again if it is a bug, or if the environment variable `LIT_PRUNE_TRACEBACK` is set.
    An interruption, whose status is above 128, is printed without the word "error".
    """
    failure = describe_failure(error)
    if failure is None or os.environ.get("LIT_PRUNE_TRACEBACK"):
        raise error
    print(f"lit-prune: {'' if failure.status > 128 else 'error: '}{failure.sentence}", file=sys.stderr)
    return failure.status


def _missing_metric(message: str) -> str | None:
    """Describe the error of a Lightning callback whose `monitor` is not a logged metric; else return None."""
    early = re.search(r"Early stopping conditioned on metric `(.*?)` which is not available\..*: (.*)", message)
    best = re.search(r"ModelCheckpoint\(monitor='(.*?)'\)` could not find .* metrics: \[(.*?)\]", message)
    if (match := early or best) is None:
        return None
    logged = [name.strip("`' ") for name in match[2].split(",")]
    hint = closest_hint(match[1], logged, f"choose one of {', '.join(logged)}")
    return str(expected("`monitor` to be a logged metric", f"`{match[1]}`", hint))
