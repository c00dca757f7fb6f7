"""How a command on a trained network ends: with a status, and one sentence if it failed."""

from collections.abc import Callable, Sequence

from lit_prune.cli.complaint import complain
from lit_prune.cli.failures import understood
from lit_prune.cli.quiet import quiet

__all__ = ["ended"]


def ended(command: Callable[[Sequence[str]], None], words: Sequence[str]) -> int:
    """Run a command to its end.

    Args:
        command: What to run.
        words: Its name and its options.

    Returns:
        The exit status: 0, 1 if files could not be written or read on the way, 2 for input that cannot be used.
    """
    with quiet(scoring=True):
        try:
            command(words)
        except SystemExit as leave:  # after --help
            return int(leave.code or 0)
        except Exception as error:
            if (failure := understood(error)) is None:
                raise
            return complain(error, failure.status, failure.sentence)
    return 0
