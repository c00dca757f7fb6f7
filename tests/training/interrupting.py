"""A callback that sends its own process a signal, as a person or a machine that is to be shut down would."""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer


class Interrupting(Callback):
    """Sends one signal, in the training that has not sent it yet.

    Args:
        hook: The hook in which it is sent.
        step: The step at which, or later.
        number: The signal.
        marker: A file that is there once it has been sent.
        rank: The process of a strategy that is told.
    """

    def __init__(self, hook: str, step: int, marker: str, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        self.step, self.number, self.marker, self.rank = step, number, Path(marker), rank
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        told = trainer.global_rank == self.rank and not trainer.sanity_checking
        if told and trainer.global_step >= self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.number)
