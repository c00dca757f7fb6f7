"""A callback that sends its own process a signal, as a user or a system that shuts down would."""

import os
import signal
from pathlib import Path
from typing import Any

from lightning.pytorch import LightningModule, Trainer

from lit_prune.callbacks._base import Callback


class Interrupting(Callback):
    """Sends one signal, unless an earlier training has sent it.

    Args:
        hook: Name of the hook that sends it.
        step: First step at which it is sent.
        number: Number of the signal.
        marker: Path of a file that is created when the signal is sent.
        rank: Rank of the process that receives it.
    """

    def __init__(self, hook: str, step: int, marker: str, number: int = int(signal.SIGTERM), rank: int = 0) -> None:
        self.step, self.number, self.marker, self.rank = step, number, Path(marker), rank
        setattr(self, hook, self._send)

    def _send(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        told = trainer.global_rank == self.rank and not trainer.sanity_checking
        if told and trainer.global_step >= self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), self.number)
