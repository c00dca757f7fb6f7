"""TensorBoard's events written by the thread that logs them, so that a full disk is an error there, and only there."""

import itertools
import os
import socket
import time
from io import BytesIO
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.summary.writer.record_writer import RecordWriter
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.writer import FileWriter

from lit_prune.files.atomic import append

__all__ = ["EventFile", "Summaries"]

_numbers = itertools.count()
# what is logged without being saved waits here; a histogram is some ten KiB
_WAITING_BYTES = 1 << 18


class EventFile:
    """An event file to which events are added whole, or not at all.

    TensorBoard's own writer has a thread for that: when it fails, its traceback is printed, half of an event stays at
    the end of the file, where no reader gets past it, and the run hears of it later or never.

    Args:
        folder: Where the file is made.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._path = folder / name
        self._path.open("xb").close()
        self._waiting = BytesIO()
        self._writer = RecordWriter(self._waiting)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        """Return the folder."""
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        """Add an event; `flush` puts it on disk."""
        self._writer.write(event.SerializeToString())
        if self._waiting.tell() > _WAITING_BYTES:
            self.flush()

    def flush(self) -> None:
        """Put on disk what has been added.

        Raises:
            OSError: If it cannot be written, or if the file is no longer where it was made.
        """
        append(self._path, self._waiting.getvalue())
        self._waiting.seek(0)
        self._waiting.truncate()

    def close(self) -> None:
        """Put on disk what has been added."""
        self.flush()


class Summaries(SummaryWriter):
    """A SummaryWriter that writes to an `EventFile`."""

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            writer: Any = FileWriter.__new__(FileWriter)  # its constructor starts the thread
            writer.event_writer = EventFile(Path(self.log_dir))
            self.file_writer = writer
            self.all_writers = {self.log_dir: writer}  # type: ignore[assignment]  # None there until it is needed
        return self.file_writer
