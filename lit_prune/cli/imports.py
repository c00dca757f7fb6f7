"""Import modules in less time, and stop at once on Ctrl-C meanwhile."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_imports = 0  # number of open `importing` blocks


@contextmanager
def importing() -> Iterator[None]:
    """Do not look for garbage inside a `with` block: torch and Lightning leave none, and are imported faster."""
    global _imports
    enabled = gc.isenabled()
    gc.disable()
    _imports += 1
    try:
        yield
    finally:
        _imports -= 1
        if enabled:
            gc.enable()


def stop_imports_on_interrupt() -> None:
    """Let Ctrl-C end this process with one line and status 130 inside `importing`; elsewhere, it still raises.

    An exception that is raised during imports can be lost, or printed with a traceback: libraries catch all exceptions
    of their own imports, and Python's import system has callbacks that cannot raise.
    """
    signal.signal(signal.SIGINT, _on_interrupt)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if not _imports:
        raise KeyboardInterrupt
    os.write(2, b"lit-prune: Interrupted. Run the same command again.\n")  # `print` may already be running
    os._exit(128 + number)
