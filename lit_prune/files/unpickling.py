"""What the pickles in a file ask for, read without executing them.

Nothing here decides what is loaded; `torch.load(weights_only=True)` does, and refuses. This says what it has refused.
"""

import _compat_pickle
import io
import mmap
import pickle
import pickletools
import re
import tarfile
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from torch.serialization import get_unsafe_globals_in_checkpoint

__all__ = ["unsafe_requests"]

# a pickle with nothing but names and numbers is far smaller; a compressed one may claim to be any size
_LIMIT = 64 * 2**20
_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LONGEST = 100
_TORCHSCRIPT = "the code of a TorchScript archive"
# what stands in most checkpoints; what is alarming shall be named before it
_FAMILIAR = ("collections", "lightning", "numpy", "torch")
_CALLS = {"REDUCE", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "BUILD"}


class _Stream(Protocol):
    def read(self, count: int, /) -> bytes: ...
    def readline(self) -> bytes: ...
    def tell(self) -> int: ...


def unsafe_requests(path: Path) -> list[str]:
    """Name what the pickles in a file would import, beyond what tensors and plain values need.

    Args:
        path: A file of any kind: an archive of `torch.save` in any of its formats, a bare pickle, or something else.

    Returns:
        Dotted names such as "posix.system", the most alarming first, and a phrase for code in a TorchScript archive.
        Empty if the file holds no pickle, or only harmless ones.

    Raises:
        OSError: If the file cannot be read.
    """
    found = set(_asked_for(path))
    code = found & {_TORCHSCRIPT}
    unsafe = sorted(_unsafe(found - code), key=lambda name: (name.split(".")[0] in _FAMILIAR, name))
    return [_shown(name) for name in unsafe] + sorted(code)


def _asked_for(path: Path) -> Iterator[str]:
    # one file can be read as several kinds; which of them torch takes it for is not to be guessed here
    yield from _of_zip(path)
    yield from _of_tar(path)
    if path.stat().st_size > 0:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            yield from _of_stream(content)


def _of_zip(path: Path) -> Iterator[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if any(name.rpartition("/")[2] == "constants.pkl" for name in names):
                yield _TORCHSCRIPT
            for name in names:
                if name.endswith(".pkl"):
                    with archive.open(name) as member:
                        yield from _of_stream(io.BytesIO(member.read(_LIMIT)))
    except (zipfile.BadZipFile, zlib.error, OSError, NotImplementedError, RuntimeError, EOFError, ValueError):
        return  # damaged, encrypted, or packed by a method unknown here; what was found until then stands


def _of_tar(path: Path) -> Iterator[str]:
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                file = archive.extractfile(member) if member.isreg() else None
                if file is not None:
                    yield from _of_stream(io.BytesIO(file.read(_LIMIT)))
    except (tarfile.TarError, EOFError, ValueError):
        return


def _of_stream(stream: _Stream) -> Iterator[str]:
    """Pickles one after the other, as torch's old format has them, until something is none."""
    whole = True
    while whole:
        names, whole = _of_pickle(stream)
        yield from names


def _of_pickle(stream: _Stream) -> tuple[list[str], bool]:
    """Name what one pickle asks for, and say whether it is followed to its end.

    What is no pickle may begin like one, as a text does whose first letter is `c`. So names count only where it says
    that it is one, calls something, or comes to its end.
    """
    names: list[str] = []
    stack: list[Any] = []
    memo: dict[int, Any] = {}
    sure = False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd escapes in strings are the least of what may be there
            for opcode, argument, _ in pickletools.genops(stream):  # type: ignore[arg-type]  # a mapping reads like a file
                if (name := _follow(opcode, argument, stack, memo)) is not None:
                    names.append(name)
                sure |= opcode.name in _CALLS | {"PROTO", "STOP"}
    except (ValueError, IndexError, KeyError, TypeError, UnicodeError, pickle.UnpicklingError, OverflowError):
        return (names if sure else []), False
    return names, True


def _follow(opcode: pickletools.OpcodeInfo, argument: Any, stack: list[Any], memo: dict[int, Any]) -> str | None:
    """Do to the stack what one opcode does, as far as strings on it are concerned; return the name it imports."""
    kind = opcode.name
    if kind in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
        memo[len(memo) if kind == "MEMOIZE" else argument] = stack[-1]
        return None
    if kind in ("GET", "BINGET", "LONG_BINGET"):
        stack.append(memo[argument])
        return None
    if kind == "DUP":
        stack.append(stack[-1])
        return None
    name = None
    if kind in ("GLOBAL", "INST"):
        name = _of_today(*argument.split(" ", 1))
    elif kind == "STACK_GLOBAL":
        name = ".".join(part if isinstance(part, str) else "?" for part in stack[-2:])
    elif kind.startswith("EXT"):
        name = f"copyreg.extension_{argument}"
    mark: Any = pickletools.markobject
    if mark in opcode.stack_before:
        while stack.pop() is not mark:
            pass
        below = opcode.stack_before.index(mark)
    else:
        below = len(opcode.stack_before)
    if below > len(stack):
        raise IndexError("a pickle that takes from an empty stack")
    del stack[len(stack) - below :]
    value = argument if isinstance(argument, str | bytes) else None
    stack += [mark if item is mark else value for item in opcode.stack_after]
    return name


def _of_today(module: str, name: str) -> str:
    """Undo what pickles of old protocols do to names, which are those of Python 2."""
    module, name = _compat_pickle.NAME_MAPPING.get((module, name), (module, name))
    return f"{_compat_pickle.IMPORT_MAPPING.get(module, module)}.{name}"


def _unsafe(names: set[str]) -> set[str]:
    """Leave out what torch takes for harmless, by asking it with a file that does nothing but name them."""
    plain = sorted(name for name in names if "." in name and _NAME.fullmatch(name))
    globals_ = "".join("c{}\n{}\n".format(*name.rsplit(".", 1)) for name in plain)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("names/data.pkl", b"\x80\x02" + globals_.encode() + b"N.")
        archive.writestr("names/version", "3\n")
    file.seek(0)
    return (names - set(plain)) | set(get_unsafe_globals_in_checkpoint(file))


def _shown(name: str) -> str:
    """A name is whatever a stranger wrote there; it goes into one line of a terminal."""
    return name if _NAME.fullmatch(name) and len(name) <= _LONGEST else ascii(name)[:_LONGEST]
