"""Files that are either whole or not there."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["append", "replacing", "sync", "write_text"]


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place, and move it there when it is whole.

    Args:
        path: Where it shall be; what is there stays until the end, and for good if the block fails.

    Yields:
        Where to write.

    Raises:
        OSError: If it cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        sync(part)
        part.chmod(0o666 & ~_umask())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def append(path: str | Path, content: "Buffer") -> None:
    """Add to the end of a file, all of it or nothing.

    Args:
        path: A file that is there. It is not made anew: somebody who appends to it has seen it before.
        content: What to add.

    Raises:
        FileNotFoundError: If it is gone.
        OSError: If it cannot be written; it is as long as before then.
    """
    with Path(path).open("rb+", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        left = memoryview(content)
        try:
            while left:
                left = left[file.write(left) :]
        except OSError as error:
            file.truncate(size)
            raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: str | Path) -> None:
    """Wait until what has been written to a file would survive the loss of power."""
    with Path(path).open("rb+") as file:
        os.fsync(file.fileno())


def _umask() -> int:
    # `mkstemp` makes files that nobody else can read; there is no way to ask for the mask without setting it
    mask = os.umask(0)
    os.umask(mask)
    return mask
