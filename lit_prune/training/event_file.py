"""TensorBoard event files written without a background thread: a failed write raises an error in the training loop."""

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
from lit_prune.training.run_folder import EVENTS

_numbers = itertools.count()
_BUFFER_BYTES = 1 << 18  # room for about 25 histograms


class EventFile:
    """A TensorBoard event file to which only complete events are appended.

    TensorBoard's own writer uses a thread. If a write fails, for example on a full disk, the thread prints a traceback
    and leaves an incomplete event, at which readers of the file stop; the training may never learn of the error.

    Args:
        folder: Folder in which to create the file.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        # TensorBoard reads the files of a folder in the order of their names, so these contain fractions of a second
        name = f"{EVENTS}{time.time():017.6f}.{socket.gethostname()}.{os.getpid()}.{next(_numbers)}"
        self._path = folder / name
        self._path.open("xb").close()
        self._buffer = BytesIO()
        self._writer = RecordWriter(self._buffer)
        self.add_event(Event(wall_time=time.time(), file_version="brain.Event:2"))
        self.flush()

    def get_logdir(self) -> str:
        """Return the folder of the file."""
        return str(self._folder)

    def add_event(self, event: Event) -> None:
        """Add an event to the buffer, and write the buffer to disk if it is full."""
        self._writer.write(event.SerializeToString())
        if self._buffer.tell() > _BUFFER_BYTES:
            self.flush()

    def flush(self) -> None:
        """Write the events in the buffer to disk.

        Raises:
            OSError: If the events cannot be written, or the file was moved or removed.
        """
        append(self._path, self._buffer.getvalue())
        self._buffer.seek(0)
        self._buffer.truncate()

    def close(self) -> None:
        """Write the events in the buffer to disk."""
        self.flush()


class Summaries(SummaryWriter):
    """A SummaryWriter that writes to an `EventFile`."""

    def _get_file_writer(self) -> Any:
        if self.file_writer is None:
            writer: Any = FileWriter.__new__(FileWriter)  # without calling its constructor, which would start a thread
            writer.event_writer = EventFile(Path(self.log_dir))
            self.file_writer = writer
            self.all_writers = {self.log_dir: writer}  # type: ignore[assignment]  # None in the base class at first
        return self.file_writer
