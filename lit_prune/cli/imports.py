"""Import modules faster, and let Ctrl-C end the process at once while modules are imported."""

import gc
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_imports = 0  # number of open `importing` blocks


@contextmanager
def importing() -> Iterator[None]:
    """Switch off garbage collection inside a `with` block: this speeds up importing torch, which leaves no garbage."""
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
    """Let Ctrl-C end the process at once while modules are imported, and after this `with` block.

    In an `importing` block, the process prints one line and exits with status 130; after this block, it ends silently.
    Otherwise, Ctrl-C raises `KeyboardInterrupt` as usual. During imports, this exception could be lost, because
    libraries catch all errors of their optional imports, or be printed with a traceback, because Python calls some
    functions that cannot raise. The latter also happens while Python exits, which takes seconds once torch has been
    imported.
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
