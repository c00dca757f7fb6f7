"""Distributed runs: refuse unsuitable ways to start processes, and exit together with the launching process."""

import os
import re
import threading
import time
from typing import Any

from lit_prune.errors import expected

_LAUNCHER = "LIT_PRUNE_LAUNCHER"
_POLL = 1.0  # seconds


def check_strategy(strategy: Any) -> None:
    """Raise an `InputError` for a strategy that spawns or forks processes: they would not run the command.

    Such processes would get copies of the loggers and callbacks, and whatever the copies record would be lost.

    Args:
        strategy: The option `--trainer.strategy`: a name, or a mapping with the path and the arguments of a class.
    """
    if isinstance(strategy, str):
        how = re.search(r"_(spawn|fork|notebook)", strategy)
        if how is not None:
            instead = strategy.replace(how[0], "")
            what = "`--trainer.strategy` to run the command once for each device"
            raise expected(what, f"`{strategy}`", f"use `--trainer.strategy {instead}`")
    elif strategy is not None and (method := (strategy.get("init_args") or {}).get("start_method", "popen")) != "popen":
        hint = "leave `start_method` out"
        raise expected("`start_method` of `--trainer.strategy` to be popen", f"`{method}`", hint)


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
