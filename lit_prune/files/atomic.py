"""Writing files completely or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write to a temporary file, and rename it once it is complete.

    Args:
        path: Path of the complete file. If the block fails, a file that was there before stays.

    Yields:
        Path of the temporary file, in the same folder.

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
        # `mkstemp` creates files that only their owner can read; the usual mode cannot be read without setting it
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file completely or not at all."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def append(path: str | Path, content: "Buffer") -> None:
    """Append all of the content to a file, or nothing.

    Args:
        path: Path of an existing file. A file that is gone is not created again, since what it held would be missing.
        content: Bytes to append.

    Raises:
        FileNotFoundError: If the file is gone.
        OSError: If it cannot be written; it is then as long as before.
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
    """Wait until the content of a file would survive a power failure."""
    with Path(path).open("rb+") as file:
        os.fsync(file.fileno())
