"""Sparse weights in few bytes: which ones are not zero, a bit each, and the values of those alone.

The bytes of a ResNet-18 (11.2 million float32 weights, trained on CIFAR-10, its smallest weights pruned over all layers
together), as a share of those of its safetensors file:

| stored as                                    | dense | 30%   | 60%   | 90%   | seconds to write at 30% |
|----------------------------------------------|-------|-------|-------|-------|-------------------------|
| safetensors, zeros and all                   | 100%  | 100%  | 100%  | 100%  |                         |
| zstd, level 3, of safetensors                | 92.6% | 70.8% | 44.9% | 13.1% | 0.9                     |
| zstd, level 19, of safetensors               | 92.5% | 69.2% | 41.9% | 11.6% | 90                      |
| bit mask and values                          | 103%  | 73.2% | 43.2% | 13.3% | 0.0                     |
| zstd, level 3, of bit mask and values        | 92.6% | 66.3% | 39.2% | 10.4% | 0.3                     |
| zstd, level 3, of bit mask and byte planes   | 85.6% | 60.5% | 35.8% | 9.4%  | 0.1                     |
| deflate of bit mask and byte planes: this one| 83.5% | 59.7% | 35.3% | 9.2%  | 0.7                     |

A byte plane is the first byte of every value, or the second, and so on: signs and exponents are alike, and compress
well beside each other, while mantissas are noise. So there is nothing to search for, only frequencies and runs to be
coded, which `zlib` does with the strategy `Z_RLE`; Python has it, and a reader needs nothing else.

The file: the mark `litprune`; the length of the header as four bytes; the header, JSON; for each tensor its mask and
its byte planes, deflated; the SHA-256 of all of that. Integers are little-endian.
"""

import hashlib
import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lit_prune.errors import InputError, expected

__all__ = ["compressed_size", "load_compressed", "read_compressed", "write_compressed"]

_MARK = b"litprune"
_FORMAT = 1
_DIGEST = hashlib.sha256().digest_size
_LENGTH = 4
_BLOCK = 1 << 20
# the header of a network with ten thousand tensors has about one megabyte
_LARGEST_HEADER = 64 << 20
_MOST_DIMENSIONS = 64
# that can be told apart from zero bit by bit, and their bytes
_DTYPES = {
    dtype: torch.empty(0, dtype=dtype).element_size()
    for dtype in (
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int32,
        torch.int16,
        torch.int8,
        torch.uint8,
        torch.bool,
    )
}
_NAMES = {str(dtype).removeprefix("torch."): dtype for dtype in _DTYPES}


@dataclass(frozen=True)
class _Entry:
    """One tensor, in the header.

    Attributes:
        name: Of the tensor.
        dtype: Of its elements, for example "float32".
        shape: Of the tensor.
        kept: How many elements have a bit that is not zero. So a zero with a sign is kept, and comes back with it.
        parts: Bytes of its mask, if it has one, and of each of its byte planes, as stored.
    """

    name: str
    dtype: str
    shape: list[int]
    kept: int
    parts: list[int]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def width(self) -> int:
        return _DTYPES[_NAMES[self.dtype]]

    @property
    def masked(self) -> bool:
        return self.kept < self.elements


def load_compressed(path: str | Path, limit: int = 1 << 32) -> dict[str, Tensor]:
    """Read the weights that `lit-prune export --compress` wrote.

    Args:
        path: The file. Nothing in it is executed. Its SHA-256 is checked, and every size in it before memory is taken.
        limit: The most bytes that the tensors may take; a small file can hold very many zeros.

    Returns:
        The tensors by name, on the CPU, bit for bit as they were.

    Raises:
        InputError: If the file is missing, damaged, no such file, or larger than `limit` when it is unpacked.
    """
    return read_compressed(path, limit)[0]


def read_compressed(path: str | Path, limit: int = 1 << 32) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a file as `load_compressed` does, and the texts that were stored with it."""
    path = Path(path)
    if not path.is_file():
        raise expected("the path of a compressed file", f"`{path}`, where there is no file", "check the path")
    try:
        with path.open("rb") as file:
            return _read(file, path, limit)
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error


def write_compressed(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors in few bytes, for `load_compressed`.

    Args:
        state: Tensors by name, of any shape.
        path: The file.
        metadata: Texts to store with them.

    Raises:
        InputError: If a tensor is sparse, quantised, complex, or of another type that has no plain bytes.
        OSError: If the file cannot be written.
    """
    entries, parts = [], []
    for name, tensor in state.items():
        entry, stored = _pack(name, tensor)
        entries.append(entry)
        parts += stored
    header = {"format": _FORMAT, "metadata": dict(metadata or {}), "tensors": [asdict(entry) for entry in entries]}
    text = json.dumps(header, separators=(",", ":")).encode()
    digest = hashlib.sha256()
    with Path(path).open("wb") as file:
        for piece in (_MARK, len(text).to_bytes(_LENGTH, "little"), text, *parts):
            digest.update(piece)
            file.write(piece)
        file.write(digest.digest())


def compressed_size(state: Mapping[str, Tensor]) -> int:
    """Count the bytes of the masks and values that `write_compressed` would store, without header and checksum.

    Raises:
        InputError: If it could not store a tensor.
    """
    return sum(sum(_pack(name, tensor)[0].parts) for name, tensor in state.items())


def _pack(name: str, tensor: Tensor) -> tuple[_Entry, list[bytes]]:
    if tensor.dtype not in _DTYPES or tensor.layout != torch.strided or tensor.is_meta:
        raise expected(
            f"dense tensors of {', '.join(_NAMES)}",
            f"`{name}` of {tensor.dtype}, {tensor.layout}",
            "leave it out, or convert it first",
        )
    elements = _as_integers(tensor)
    mask = elements != 0
    kept = elements[mask]
    planes = kept.view(np.uint8).reshape(-1, tensor.element_size()).T
    pieces = [plane.tobytes() for plane in planes]
    if len(kept) < len(elements):
        pieces.insert(0, np.packbits(mask).tobytes())
    stored = [_deflated(piece) for piece in pieces]
    dtype = str(tensor.dtype).removeprefix("torch.")
    return _Entry(name, dtype, list(tensor.shape), len(kept), [len(part) for part in stored]), stored


def _as_integers(tensor: Tensor) -> NDArray[Any]:
    """The elements' bits, flat, as little-endian integers."""
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    array: NDArray[Any] = flat.view(torch.uint8).numpy().view(f"=i{tensor.element_size()}")
    return array.astype(f"<i{tensor.element_size()}", copy=False)


def _deflated(piece: bytes) -> bytes:
    # matches between bytes that are noise take long to look for, and what is found costs more than it saves
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS, memLevel=9, strategy=zlib.Z_RLE)
    return packer.compress(piece) + packer.flush()


def _read(file: BinaryIO, path: Path, limit: int) -> tuple[dict[str, Tensor], dict[str, str]]:
    size = _check_whole(file, path)
    header = _header(file, path, size)
    entries = _entries(header, path)
    if file.tell() + sum(sum(entry.parts) for entry in entries) + _DIGEST != size:
        raise _damaged(path, "whose parts are not as long as its header says")
    unpacked = sum(entry.elements * entry.width for entry in entries)
    if unpacked > limit:
        found = f"`{path}`, whose tensors take {unpacked:,}"
        raise expected(
            f"a file of at most {limit:,} bytes when it is unpacked", found, "raise the `limit` if you trust it"
        )
    return {entry.name: _unpack(file, path, entry) for entry in entries}, header["metadata"]


def _check_whole(file: BinaryIO, path: Path) -> int:
    """Check mark and checksum, and return the file's size."""
    size = file.seek(0, 2)
    file.seek(0)
    if file.read(len(_MARK)) != _MARK:
        raise expected(
            "a file that `lit-prune export --compress` wrote",
            f"`{path}`, which is something else",
            "checkpoints and state dicts are read by `torch.load`",
        )
    digest = hashlib.sha256(_MARK)
    left = size - len(_MARK) - _DIGEST
    while left > 0 and (block := file.read(min(_BLOCK, left))):
        digest.update(block)
        left -= len(block)
    if file.read() != digest.digest():
        raise _damaged(path, "whose SHA-256 is not the one that was written with it")
    return size


def _header(file: BinaryIO, path: Path, size: int) -> dict[str, Any]:
    file.seek(len(_MARK))
    length = int.from_bytes(file.read(_LENGTH), "little")
    if length > min(size - len(_MARK) - _LENGTH - _DIGEST, _LARGEST_HEADER):
        raise _damaged(path, "whose header is longer than it can be")
    try:
        header: Any = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, "whose header is no JSON") from error
    texts = header.get("metadata") if isinstance(header, dict) else None
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise _damaged(path, "whose header says something else")
    if header.get("format") != _FORMAT:
        hint = "`pip install --upgrade lit-prune` if a newer version wrote it"
        raise expected(f"a compressed file in format {_FORMAT}", f"`{path}` in another", hint)
    checked: dict[str, Any] = header
    return checked


def _entries(header: dict[str, Any], path: Path) -> list[_Entry]:
    """Take nothing that the header says for granted."""
    fault = _damaged(path, "whose header describes no tensors")
    try:
        entries = [_Entry(**entry) for entry in header["tensors"]]
    except (KeyError, TypeError) as error:
        raise fault from error
    for entry in entries:
        if not isinstance(entry.name, str) or not isinstance(entry.dtype, str) or entry.dtype not in _NAMES:
            raise fault
        if not all(isinstance(numbers, list) for numbers in (entry.shape, entry.parts)):
            raise fault
        if not all(
            type(number) is int and 0 <= number < 1 << 63 for number in (*entry.shape, *entry.parts, entry.kept)
        ):
            raise fault
        # strides are counted as if no dimension were empty
        if len(entry.shape) > _MOST_DIMENSIONS or prod(size or 1 for size in entry.shape) >= 1 << 60:
            raise fault
        if entry.kept > entry.elements:
            raise fault
        if len(entry.parts) != entry.width + entry.masked:
            raise fault
    if len({entry.name for entry in entries}) < len(entries):
        raise fault
    return entries


def _unpack(file: BinaryIO, path: Path, entry: _Entry) -> Tensor:
    sizes = [entry.kept] * entry.width
    if entry.masked:
        sizes.insert(0, (entry.elements + 7) // 8)
    pieces = [_inflated(file, path, stored, size) for stored, size in zip(entry.parts, sizes, strict=True)]
    planes = np.stack([np.frombuffer(piece, np.uint8) for piece in pieces[-entry.width :]], axis=1)
    values: NDArray[Any] = planes.reshape(-1).view(f"<i{entry.width}")
    if entry.masked:
        bits = np.frombuffer(pieces[0], np.uint8)
        mask = np.unpackbits(bits, count=entry.elements).view(bool)
        if int(mask.sum()) != entry.kept:
            raise _damaged(path, f"whose mask of `{entry.name}` does not keep what its header says")
        whole: NDArray[Any] = np.zeros(entry.elements, values.dtype)
        whole[mask] = values
        values = whole
    native = values.astype(f"=i{entry.width}", copy=False)
    return torch.from_numpy(native.view(np.uint8)).view(_NAMES[entry.dtype]).reshape(entry.shape)


def _inflated(file: BinaryIO, path: Path, stored: int, size: int) -> bytes:
    """Unpack one part, which never takes more memory than it shall."""
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    try:
        # one byte more than there shall be shows whether there are too many; 0 would mean no bound
        piece = unpacker.decompress(file.read(stored), size + 1)
    except zlib.error as error:
        raise _damaged(path, "whose parts cannot be unpacked") from error
    if len(piece) != size or not unpacker.eof or unpacker.unused_data:
        raise _damaged(path, "whose parts do not unpack to what its header says")
    return piece


def _damaged(path: Path, how: str) -> InputError:
    return expected("a whole compressed file", f"`{path}`, {how}", "copy or write it again")
