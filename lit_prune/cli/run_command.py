"""Run a command on a trained network, and turn its errors into an exit status."""

import os
import sys
from collections.abc import Callable, Sequence

from lit_prune.cli.failures import print_error
from lit_prune.cli.quiet import quiet
from lit_prune.cli.signals import StopSignals


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Call a command with `argv`, its name and arguments.

    SIGINT and SIGTERM raise an `UnfinishedError` in the command, so that it can remove unfinished files.

    Returns:
        The exit status: 0, 1 if reading or writing failed, 2 for invalid input, or 128 + signal.
    """
    with quiet(scoring=True), StopSignals():
        try:
            command(argv)
            sys.stdout.flush()
        except SystemExit as leave:  # after --help
            return int(leave.code or 0)
        except BrokenPipeError:  # as in `lit-prune inspect ... | head`
            # otherwise Python flushes stdout at exit and raises the error again
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        except Exception as error:
            return print_error(error)
    return 0
