"""Ending the processes of a distributed strategy when the process that launched them is gone."""

import os
import threading
import time

_LAUNCHER = "LIT_PRUNE_LAUNCHER"
_POLL = 1.0  # seconds


def exit_with_launcher() -> None:
    """Make a launched process exit as soon as its launcher does.

    Once the processes have connected, they notice when one is gone. If the launcher is killed before that, the others
    would wait for it for half an hour.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[_LAUNCHER] = str(os.getpid())  # launched processes inherit it
        return
    launcher = int(os.environ.get(_LAUNCHER, "0"))
    if launcher:  # processes that another program launched are its own concern
        threading.Thread(target=_wait, args=[launcher], daemon=True).start()


def _wait(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL)
    os._exit(1)
