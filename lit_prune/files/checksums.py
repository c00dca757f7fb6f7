"""A checksum inside a file of `torch.save`: in the comment of its archive, which every other reader passes over.

`torch.load` looks at no checksum, so that a flipped bit becomes another weight in silence. The archive holds a CRC-32
of each record; files of ours hold the SHA-256 of the whole as well, and stay files that torch reads anywhere.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

__all__ = ["fault_of", "seal"]

_MARK = b"lit-prune sha256:"
_COMMENT = len(_MARK) + 64
# an archive without a comment ends with the length of its comment: two bytes that are zero
_NO_COMMENT = b"\0\0"
_ARCHIVE = b"PK\x03\x04"
_BLOCK = 1 << 20


def seal(path: str | Path) -> None:
    """Add its checksum to a file that `torch.save` has just written.

    Args:
        path: The file. Its SHA-256, as it is before the call, is added to it.

    Raises:
        OSError: If it cannot be read or written.
    """
    with Path(path).open("rb+") as file:
        file.seek(-len(_NO_COMMENT), os.SEEK_END)
        if file.read() != _NO_COMMENT:
            return  # another kind of file, or one that has a comment
        size = file.tell()
        digest = _sha256(file, size)
        file.seek(size - len(_NO_COMMENT))
        file.write(_COMMENT.to_bytes(2, "little") + _MARK + digest.encode())


def fault_of(file: BinaryIO) -> str | None:
    """Check a file against the checksums that it holds.

    Args:
        file: An open file, which is at its beginning afterwards.

    Returns:
        What is wrong with it, or None: it is as it was written, or nothing in it could tell.

    Raises:
        OSError: If it cannot be read.
    """
    try:
        return _fault(file)
    finally:
        file.seek(0)


def _fault(file: BinaryIO) -> str | None:
    file.seek(0)
    if file.read(len(_ARCHIVE)) != _ARCHIVE:
        return None  # no archive: a state dict in the format of old, or something else
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - _COMMENT))
    comment = file.read()
    if comment.startswith(_MARK):
        if _sha256(file, size - _COMMENT) == comment.removeprefix(_MARK).decode("ascii", "replace"):
            return None
        return "whose SHA-256 is not the one that was written with it"
    return _fault_of_records(file)


def _fault_of_records(file: BinaryIO) -> str | None:
    """Compare the records with the archive's own checksums."""
    try:
        with zipfile.ZipFile(file) as archive:
            if any(record.compress_type != zipfile.ZIP_STORED for record in archive.infolist()):
                return "whose records are compressed, as torch never writes them"  # a few bytes could fill the memory
            if all(record.CRC == 0 for record in archive.infolist()):
                return None  # torch was told to write no checksums
            damaged = archive.testzip()
    except OSError as error:
        if error.errno is not None:
            raise
        return "which is truncated or damaged"
    except Exception:  # bytes at random lead a parser of archives anywhere
        return "which is truncated or damaged"
    return None if damaged is None else f"whose record `{damaged}` is damaged"


def _sha256(file: BinaryIO, size: int) -> str:
    """The SHA-256 of a file as it was before a comment was added, `size` bytes long."""
    digest = hashlib.sha256()
    left = size - len(_NO_COMMENT)
    file.seek(0)
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    digest.update(_NO_COMMENT)
    return digest.hexdigest()
