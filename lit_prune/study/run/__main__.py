"""The process of one run of a study: `python -m lit_prune.study.run OUT EXPERIMENT SEED`.

It exits when its standard input is closed, which means that the process that started it has died.
"""

import gc
import os
import sys
import threading

from lit_prune.cli.imports import importing
from lit_prune.training.launcher import exit_with_launcher


def _exit_with_parent() -> None:
    """Start a thread that ends this process when standard input is closed, so that no run survives a killed study."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _exit_with_parent()
    exit_with_launcher()
    with importing():
        from lit_prune.study.run.worker import main

        gc.freeze()  # modules stay, so that no later collection needs to look at them
    sys.exit(main(sys.argv[1:]))
