"""Stop the processes of a distributed run when the process that launched them dies."""

import os
import threading
import time

_LAUNCHER = "LIT_PRUNE_LAUNCHER"
_POLL = 1.0  # seconds


def exit_with_launcher() -> None:
    """Make this process exit when its launcher exits, if the launcher is another process of the same run.

    torch detects a lost process only after all processes have connected. If the launcher is killed before that, the
    launched processes would otherwise wait until the timeout of half an hour.
    """
    if os.environ.get("LOCAL_RANK", "0") == "0":
        os.environ[_LAUNCHER] = str(os.getpid())  # launched processes inherit the variable
        return
    launcher = int(os.environ.get(_LAUNCHER, "0"))
    if launcher:  # not set if another program, such as torchrun, launched this process
        threading.Thread(target=_wait, args=[launcher], daemon=True).start()


def _wait(launcher: int) -> None:
    while os.getppid() == launcher:
        time.sleep(_POLL)
    os._exit(1)
