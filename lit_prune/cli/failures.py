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


def describe_failure(error: BaseException, again: str = _AGAIN) -> Failure | None:
    """Describe an error for the user; return None if the error is a bug.

    Args:
        error: The error.
        again: What the user can do once the cause has been removed.
    """
    message = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return Failure(f"Interrupted. {_AGAIN.capitalize()}.", 130)
    if isinstance(error, InputError | UnfinishedError):
        return Failure(message, getattr(error, "status", 2))
    if (sentence := _missing_metric(message)) is not None:
        return Failure(sentence, 2)
    if isinstance(error, AttributeError) and "using the learning rate finder" in message:
        hint = "set `self.lr` in `__init__`, and use it in `configure_optimizers`"
        return Failure(str(expected("a model with an attribute `lr`, for LearningRateFinder", "none", hint)), 2)
    if isinstance(error, ImportError) and (sentence := _missing_package(error, message)) is not None:
        return Failure(sentence, 2)
    if type(error).__name__ == "MisconfigurationException":  # by name, because importing Lightning takes seconds
        return Failure(_refused_options(message.rstrip(".!")), 2)
    if isinstance(error, OSError) and error.errno == errno.ENAMETOOLONG:
        found = f"`{shorten(str(error.filename))}`"
        return Failure(str(expected("a path with shorter file names", found, "choose a shorter name")), 2)
    if isinstance(error, OSError):
        where = f": `{error.filename}`" if error.filename else ""
        remedy = _REMEDIES.get(error.errno or 0, "Check the path and the disk")
        return Failure(f"{error.strerror or message}{where}. {remedy}, then {again}.", 1)
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
    An interruption, whose status is above 128, is printed without the word "error". Nothing is printed if the reader
    of stdout has finished, as in `lit-prune fit --help=all | head`.
    """
    if isinstance(error, BrokenPipeError):
        # otherwise Python flushes stdout at exit and raises the error again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    failure = describe_failure(error)
    if failure is None or os.environ.get("LIT_PRUNE_TRACEBACK"):
        raise error
    print(f"lit-prune: {'' if failure.status > 128 else 'error: '}{failure.sentence}", file=sys.stderr)
    return failure.status


def _missing_package(error: ImportError, message: str) -> str | None:
    """Describe the error of an import if a package is missing or too old; return None for any other reason."""
    if match := re.match(r"Requirement '([\w-]+)(.*)' not met", message):
        command = f"pip install -U '{match[1]}{match[2]}'"
        return f"The package `{match[1]}` is not installed, or too old. Install it with `{command}`."
    if "pip install" in message:
        return f"{message.rstrip('.')}."
    package = (error.name or "").partition(".")[0]
    if not isinstance(error, ModuleNotFoundError) or package in ("", "lit_prune"):
        return None
    return f"The module `{package}` is not installed. Install the package that contains it, then {_AGAIN}."


def _refused_options(message: str) -> str:
    """Describe why Lightning refuses options."""
    if "supported gpu backend" in message or "accelerator is not available" in message:
        hint = "Use `--trainer.accelerator auto`, which chooses the best device that there is, or `cpu`"
        return f"The device of `--trainer.accelerator` does not exist, or torch cannot use it. {hint}."
    hint = "" if "pip install" in message else " `--help=all` lists all options."
    return f"Lightning refuses these options: {message}.{hint}"


def _missing_metric(message: str) -> str | None:
    """Describe the error of a Lightning callback whose `monitor` is not a logged metric; else return None."""
    early = re.search(r"Early stopping conditioned on metric `(.*?)` which is not available\..*: (.*)", message)
    best = re.search(r"ModelCheckpoint\(monitor='(.*?)'\)` could not find .* metrics: \[(.*?)\]", message)
    if (match := early or best) is None:
        return None
    logged = [name.strip("`' ") for name in match[2].split(",")]
    hint = closest_hint(match[1], logged, f"choose one of {', '.join(logged)}")
    return str(expected("`monitor` to be a logged metric", f"`{match[1]}`", hint))
