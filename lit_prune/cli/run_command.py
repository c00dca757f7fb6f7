"""How a command on a trained network ends: with a status, and one sentence if it failed."""

import os
import sys
from collections.abc import Callable, Sequence

from lit_prune.cli.failures import describe_failure, print_error
from lit_prune.cli.quiet import quiet
from lit_prune.cli.signals import StopSignals

__all__ = ["run_command"]


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Run a command to its end.

    SIGINT and SIGTERM reach it as an `UnfinishedError`, so that what it has begun to write is cleared away.

    Args:
        command: What to run.
        argv: Its name and its options.

    Returns:
        The exit status: 0, 1 if files could not be written or read on the way, 2 for input that cannot be used, or
        128 + signal.
    """
    with quiet(scoring=True), StopSignals():
        try:
            command(argv)
            sys.stdout.flush()
        except SystemExit as leave:  # after --help
            return int(leave.code or 0)
        except BrokenPipeError:  # `lit-prune inspect ... | head` has seen enough
            # Python would write once more at its end, and complain
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            if (failure := describe_failure(error)) is None:
                raise
            return print_error(error, failure.status, failure.sentence)
    return 0
