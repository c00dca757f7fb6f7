"""Compressed files of sparse weights: bit masks and non-zero values, in an ordinary safetensors file.

docs/checkpoint-format.md describes the format. File sizes of a ResNet-18 (11.2 million float32 weights, trained on
CIFAR-10, pruned globally by magnitude), by sparsity, in percent of the uncompressed safetensors file:

| stored as                                 | dense | 30%   | 60%   | 90%   |
|-------------------------------------------|-------|-------|-------|-------|
| zstd, level 3, of safetensors             | 92.6% | 70.8% | 44.9% | 13.1% |
| bit mask and values                       | 103%  | 73.2% | 43.2% | 13.3% |
| zstd, level 3, of bit mask and values     | 92.6% | 66.3% | 39.2% | 10.4% |
| deflate of bit mask and byte planes       | 83.5% | 59.7% | 35.3% | 9.2%  |

This module writes the format of the last row; the header adds 20 kB to the file. The first byte plane holds the lowest
byte of every value, the second plane the next byte, and so on. The plane of signs and exponents has few distinct bytes,
so it compresses well. The other planes are nearly random: searching them for repeated strings would only take time, so
`zlib` codes only byte frequencies and runs (`Z_RLE`).
"""

import json
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from lit_prune.errors import InputError, expected

_FORMAT = "1"
_WANTED = f"a file that `lit-prune export --compress` wrote, in format {_FORMAT}"
_FORMAT_KEY, _TENSORS_KEY, _CRC_KEY = "lit_prune.format", "lit_prune.tensors", "lit_prune.crc32"
_MASK, _VALUES = ".mask", ".values"
_MOST_DIMENSIONS = 64
# pack a tensor only if packing saves at least this many bytes: a packed tensor takes more space in the header
_SAVED = 256
# types that both torch and safetensors support, and that store the number zero as zero bits only
_NAMES = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8", "bool")
_DTYPES = {name: getattr(torch, name) for name in _NAMES}
# by name of the tensor: its type and shape if it is packed, None if it is stored unpacked
_Entries = dict[str, tuple[str, list[int]] | None]


def load_compressed(path: str | Path, limit: int = 1 << 32) -> dict[str, Tensor]:
    """Load weights that `lit-prune export --compress` wrote.

    Args:
        path: Path of the file. Nothing in it is executed, and its CRC-32 is checked.
        limit: Largest size of the unpacked tensors in bytes, because a small file can unpack to very many zeros.

    Returns:
        The tensors by name, on the CPU, bit for bit equal to the exported ones.

    Raises:
        InputError: If the file is missing, damaged, of another format, or larger than `limit` when unpacked.
    """
    return read_compressed(path, limit)[0]


def read_compressed(path: str | Path, limit: int = 1 << 32) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file, as `load_compressed` does, and the metadata stored with them."""
    path = Path(path)
    if not path.is_file():
        raise expected("the path of a compressed file", f"`{path}`, which does not exist", "check the path")
    try:
        with safe_open(path, "pt") as file:
            metadata = dict(file.metadata() or {})
            if (found := metadata.pop(_FORMAT_KEY, None)) != _FORMAT:
                hint = "if a newer lit-prune wrote the file, run `pip install --upgrade lit-prune`"
                raise expected(_WANTED, f"`{path}` in {f'format {found!a}' if found else 'another format'}", hint)
            stored = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error
    except SafetensorError as error:
        hint = "load checkpoints and state dicts with `torch.load`"
        raise expected(_WANTED, f"`{path}`, which is something else, truncated or damaged", hint) from error
    try:
        if _crc32(stored, metadata) != metadata.pop(_CRC_KEY):
            raise ValueError
        entries = _parse_entries(metadata.pop(_TENSORS_KEY))
        size = sum(prod(e[1]) * _DTYPES[e[0]].itemsize if e else stored[name].nbytes for name, e in entries.items())
        if size > limit:
            found = f"`{path}`, whose tensors take {size:,}"
            hint = "increase the `limit` if you trust the file"
            raise expected(f"a file of at most {limit:,} bytes when unpacked", found, hint)
        return {n: _unpack(n, stored, *e) if e else stored[n].clone() for n, e in entries.items()}, metadata
    except InputError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, RuntimeError, zlib.error) as error:
        raise InputError(f"`{path}` is damaged. Copy or export it again.") from error


def write_compressed(state: Mapping[str, Tensor], path: str | Path, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a compressed file that `load_compressed` can read.

    Args:
        state: Dense tensors by name.
        path: Path of the file to write.
        metadata: Texts to store with the tensors, by name.

    Raises:
        InputError: If a tensor is sparse or on the meta device, or has a type that the format cannot store, such as a
            quantised or complex type.
        OSError: If the file cannot be written.
    """
    stored, entries = _pack_all(state)
    texts = {**(metadata or {}), _TENSORS_KEY: json.dumps(entries, separators=(",", ":"))}
    Path(path).write_bytes(save(stored, {**texts, _FORMAT_KEY: _FORMAT, _CRC_KEY: _crc32(stored, texts)}))


def compressed_size(state: Mapping[str, Tensor]) -> int:
    """Return the number of bytes that `write_compressed` would write for these tensors, without the header.

    Raises:
        InputError: As for `write_compressed`.
    """
    return sum(tensor.nbytes for tensor in _pack_all(state)[0].values())


def _pack_all(state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], _Entries]:
    stored: dict[str, Tensor] = {}
    entries: _Entries = {}
    for name, tensor in state.items():
        if tensor.dtype not in _DTYPES.values() or tensor.layout != torch.strided or tensor.is_meta:
            raise expected(
                f"dense tensors of {', '.join(_DTYPES)}",
                f"`{name}` of {tensor.dtype}, {tensor.layout}",
                "leave the tensor out, or convert it first",
            )
        tensor = tensor.detach().cpu().resolve_neg().contiguous()  # a negated view stores its values without the sign
        packed = {name + part: content for part, content in _pack(tensor).items()}
        if (
            sum(map(len, packed.values())) + _SAVED <= tensor.nbytes
            and not {name + _MASK, name + _VALUES} & state.keys()
        ):
            entries[name] = str(tensor.dtype).removeprefix("torch."), list(tensor.shape)
            stored |= {
                part: torch.frombuffer(bytearray(content), dtype=torch.uint8) for part, content in packed.items()
            }
        else:
            entries[name] = None
            stored[name] = tensor.clone()
    return stored, entries


def _pack(tensor: Tensor) -> dict[str, bytes]:
    width = tensor.element_size()
    array: NDArray[Any] = tensor.reshape(-1).view(torch.uint8).numpy().view(f"=i{width}")
    elements = array.astype(f"<i{width}", copy=False)
    mask = elements != 0  # compares integers, not floats, so that a negative zero is kept
    planes = elements[mask].view(np.uint8).reshape(-1, width).T
    parts = {_VALUES: _deflate(planes.tobytes())}
    return parts if mask.all() else {_MASK: _deflate(np.packbits(mask).tobytes())} | parts


def _unpack(name: str, stored: Mapping[str, Tensor], dtype: str, shape: list[int]) -> Tensor:
    width, count = _DTYPES[dtype].itemsize, prod(shape)
    mask = np.ones(count, np.bool_)
    if name + _MASK in stored:
        bits = np.frombuffer(_inflate(stored[name + _MASK], (count + 7) // 8), np.uint8)
        mask = np.unpackbits(bits, count=count).view(np.bool_)
    kept = int(mask.sum())
    planes = np.frombuffer(_inflate(stored[name + _VALUES], kept * width), np.uint8).reshape(width, kept)
    elements: NDArray[Any] = np.zeros(count, f"<i{width}")
    elements[mask] = np.ascontiguousarray(planes.T).reshape(-1).view(f"<i{width}")
    native = elements.astype(f"=i{width}", copy=False)
    return torch.from_numpy(native.view(np.uint8)).view(_DTYPES[dtype]).reshape(shape)


def _deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS, memLevel=9, strategy=zlib.Z_RLE)
    return packer.compress(content) + packer.flush()


def _inflate(part: Tensor, size: int) -> bytes:
    """Unpack a part that must hold `size` bytes; raise a `ValueError` if it holds more or fewer."""
    unpacker = zlib.decompressobj(wbits=-zlib.MAX_WBITS)
    # allow one byte more than expected, to detect a part that is too long; a limit of 0 would mean "no limit"
    content = unpacker.decompress(part.numpy().tobytes(), size + 1)
    if len(content) != size or not unpacker.eof or unpacker.unused_data:
        raise ValueError
    return content


def _parse_entries(text: str) -> _Entries:
    """Parse the types and shapes that a file lists for its tensors; raise a `ValueError` if they are impossible."""
    entries: _Entries = json.loads(text)
    for dtype, shape in filter(None, entries.values()):
        if dtype not in _DTYPES or not all(type(size) is int and 0 <= size < 1 << 63 for size in shape):
            raise ValueError
        # torch computes strides as if dimensions of size 0 had size 1; the strides must not overflow
        if len(shape) > _MOST_DIMENSIONS or prod(max(size, 1) for size in shape) >= 1 << 60:
            raise ValueError
    return entries


def _crc32(stored: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """Compute the CRC-32 of the stored tensors, their names, types and shapes, and the metadata without the CRC-32."""
    names = [(name, str(tensor.dtype), list(tensor.shape)) for name, tensor in sorted(stored.items())]
    texts = sorted((name, text) for name, text in metadata.items() if name != _CRC_KEY)
    crc = zlib.crc32(json.dumps([names, texts]).encode())
    for _, tensor in sorted(stored.items()):
        crc = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"
