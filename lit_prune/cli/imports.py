"""Import modules in less time, and end at once on Ctrl-C meanwhile."""

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


@contextmanager
def ending_on_interrupt() -> Iterator[None]:
    """Let Ctrl-C end this process with one line and status 130 in an `importing` block, and silently after this block.

    Elsewhere, it raises as usual. An exception during imports can be lost, because libraries catch all errors of their
    optional imports, or printed with a traceback, because Python calls some functions that cannot raise. The latter
    also happens while Python exits, which takes seconds once torch has been imported.
    """
    signal.signal(signal.SIGINT, _on_interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    if not _imports:
        raise KeyboardInterrupt
    os.write(2, b"lit-prune: Interrupted. Run the same command again.\n")  # `print` may already be running
    os._exit(128 + number)
