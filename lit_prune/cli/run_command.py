"""Run a command on a trained network, and turn its errors into an exit status."""

import sys
from collections.abc import Callable, Sequence

from lit_prune.cli.failures import print_error
from lit_prune.cli.quiet import quiet
from lit_prune.cli.signals import StopSignals


def run_command(command: Callable[[Sequence[str]], None], argv: Sequence[str]) -> int:
    """Call the function of a command with `argv`: the name of the command, and its arguments.

    SIGINT and SIGTERM raise an `UnfinishedError` in the command, so that the command can remove unfinished files.

    Returns:
        The exit status: 0 for success, 1 for a command that could not finish (for example on a full disk), 2 for input
        that cannot be used, or 128 plus the number of the signal that stopped the command.
    """
    with quiet(scoring=True), StopSignals() as stopping:
        try:
            command(argv)
            sys.stdout.flush()
        except SystemExit as leave:  # after --help
            return int(leave.code or 0)
        except BrokenPipeError as error:  # the command's work is done when it prints
            print_error(error)
        except Exception as error:
            return print_error(stopping.blame(error))
    return 0
