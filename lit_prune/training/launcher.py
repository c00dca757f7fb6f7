"""The processes that a strategy launches, which end when the one that launched them is gone."""

import os
import threading
import time

__all__ = ["exit_with_launcher"]

_LAUNCHER = "LIT_PRUNE_LAUNCHER"
_POLL = 1.0  # seconds


def exit_with_launcher() -> None:
    """Let a process that a strategy has launched end as soon as the process that launched it does.

    Between two collectives the others notice by themselves that one is gone. Before the first one they would wait half
    an hour for a process that was killed while they started.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[_LAUNCHER] = str(os.getpid())  # who is launched inherits it
        return
    launcher = int(os.environ.get(_LAUNCHER, "0"))
    if launcher:  # others launch processes too, and look after them
        threading.Thread(target=_wait, args=[launcher], daemon=True).start()


def _wait(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL)
    os._exit(1)
