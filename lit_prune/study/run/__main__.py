"""The process of one run of a study: `python -m lit_prune.study.run OUT EXPERIMENT SEED`; or the fork server.

It exits when its standard input is closed, which means that the process that started it has died.
Without arguments, it is the server that `fork_server` describes: its forks execute the runs.
"""

import atexit
import gc
import os
import sys
import threading
from typing import NoReturn

from lit_prune.cli.imports import importing
from lit_prune.study.run.fork_server import fork_runs
from lit_prune.training.launcher import exit_with_launcher


def _exit_with_parent() -> None:
    """Start a thread that ends this process when standard input is closed, so that no run survives a killed study."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _exit(status: int) -> NoReturn:
    """Exit as Python does, but without destroying all modules, which takes half a second."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    if sys.argv[1:]:
        _exit_with_parent()
    with importing():
        from lit_prune.study.run.worker import main, prepare

        gc.freeze()  # modules are never garbage, so the collector need not look at them again
    if not sys.argv[1:]:
        sys.argv += fork_runs(prepare)  # from here on, this process is a fork
        _exit_with_parent()
    exit_with_launcher()
    _exit(main(sys.argv[1:]))
