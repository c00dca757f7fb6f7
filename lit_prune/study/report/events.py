"""Values as TensorBoard's events, without torch, and without TensorFlow where that is installed."""

import struct
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_prune.files.atomic import replacing

__all__ = ["image", "layout", "scalar", "text", "write_events"]


def scalar(tag: str, value: float, step: int) -> Event:
    """A point of a curve."""
    return _event(Summary.Value(tag=tag, simple_value=value), step)


def text(tag: str, markdown: str) -> Event:
    """A text for the Text tab."""
    metadata = text_plugin.create_summary_metadata(display_name=tag, description="")
    return _event(Summary.Value(tag=tag, metadata=metadata, tensor=_string(markdown.encode())), 0)


def image(tag: str, png: bytes) -> Event:
    """The bytes of a PNG file, for the Images tab."""
    width, height = struct.unpack(">II", png[16:24])
    content = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
    return _event(Summary.Value(tag=tag, image=content), 0)


def layout(categories: Layout) -> Event:
    """What the Custom Scalars tab shows."""
    metadata = custom_scalar.create_summary_metadata()
    tensor = _string(categories.SerializeToString())
    return _event(Summary.Value(tag=custom_scalar.CONFIG_SUMMARY_TAG, metadata=metadata, tensor=tensor), 0)


def write_events(folder: Path, events: Iterable[Event]) -> Path:
    """Make a folder hold these events and no others.

    Args:
        folder: A run, as TensorBoard names it; it is made if need be.
        events: What to write.

    Returns:
        The event file, which takes the place of any that were there.

    Raises:
        OSError: If it cannot be written; what was there stays.
    """
    folder.mkdir(parents=True, exist_ok=True)
    old = set(folder.glob("events.out.tfevents.*"))
    now = time.time()
    # a name of its own each time: a TensorBoard that is running takes up new files, and drops older points of a step
    path = folder / f"events.out.tfevents.{time.time_ns()}.report"
    with replacing(path) as part, part.open("wb") as file:
        writer = RecordWriter(file)
        for event in chain([Event(file_version="brain.Event:2")], events):
            event.wall_time = now
            writer.write(event.SerializeToString())
    for other in old:
        other.unlink()
    return path


def _event(value: Any, step: int) -> Event:
    return Event(step=step, summary=Summary(value=[value]))


def _string(content: bytes) -> TensorProto:
    return TensorProto(dtype="DT_STRING", string_val=[content])
