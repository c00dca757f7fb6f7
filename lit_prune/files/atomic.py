"""Write files so that an interruption or a full disk never leaves an incomplete file under the final name."""

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
    """Yield the path of a temporary file to write, and rename the file to `path` when the `with` block ends.

    Args:
        path: Path of the file to write. If the `with` block raises an error, an existing file stays unchanged.

    Yields:
        Path of the temporary file, in the folder of `path`.

    Raises:
        OSError: If the file cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    part = Path(name)
    try:
        yield part
        sync(part)
        # `mkstemp` lets only the owner read the file, so set the usual permissions. They depend on the umask, which can
        # be read only by setting it.
        mask = os.umask(0)
        os.umask(mask)
        part.chmod(0o666 & ~mask)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Write a text file in UTF-8; if writing fails, an existing file stays unchanged."""
    with replacing(path) as part:
        part.write_text(text, encoding="utf-8")


def append(path: str | Path, content: "Buffer") -> None:
    """Append bytes to a file: all of them, or none if writing fails.

    Args:
        path: Path of an existing file. A missing file is not created: a new one would lack the earlier bytes.
        content: Bytes to append.

    Raises:
        FileNotFoundError: If the file does not exist.
        OSError: If writing fails; the file is then truncated to its previous length.
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
    """Flush a file to the disk with `fsync`, so that its content survives a power failure."""
    with Path(path).open("rb+") as file:
        os.fsync(file.fileno())
