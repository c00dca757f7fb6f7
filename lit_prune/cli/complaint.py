"""How a failure reaches the person at the terminal: one sentence on stderr, and an exit status."""

import os
import sys

__all__ = ["complain"]


def complain(error: BaseException, status: int, sentence: str | None = None) -> int:
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
