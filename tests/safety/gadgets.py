"""Files that run a command when they are unpickled without restrictions: each creates the file that it is told to."""

import functools
import importlib
import io
import marshal
import os
import pickle
import pickletools
import runpy
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

Write = Callable[[Path, Path], None]


class Calls:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


class Restored:
    """Creates the canary when its state is restored."""

    def __init__(self, canary: Path) -> None:
        self.canary = str(canary)

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


class Attached(nn.Module):
    """A module that is saved whole, with a gadget next to its weights."""

    def __init__(self, canary: Path) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 3)
        self.extra = shell(canary)


def touch(path: str) -> int:
    """Stands for any function that a configuration can call in place of an optimizer."""
    Path(path).touch()
    return 0


def shell(canary: Path) -> Calls:
    return Calls(os.system, f"touch '{canary}'")


def python(canary: Path) -> str:
    return f"open({str(canary)!r}, 'w').close()"


def _partial(canary: Path) -> Callable[[], int]:
    return functools.partial(os.system, f"touch '{canary}'")


def _code(canary: Path) -> Calls:
    """Call code that is stored as bytes, as cloudpickle stores it."""
    marshalled = marshal.dumps(compile(python(canary), "made", "exec"))

    return Calls(exec, Calls(marshal.loads, marshalled))


def _saved(make: Callable[[Path], Any], **options: Any) -> Write:
    """Write the gadget and some weights with `torch.save`."""

    def write(path: Path, canary: Path) -> None:
        torch.save({"state_dict": {"weight": torch.ones(2)}, "more": make(canary)}, path, **options)

    return write


def _alone(make: Callable[[Path], Any]) -> Write:
    return lambda path, canary: torch.save(make(canary), path)


def _pickled(protocol: int) -> Write:
    def write(path: Path, canary: Path) -> None:
        path.write_bytes(pickle.dumps({"weight": np.ones(2).tolist(), "more": shell(canary)}, protocol))

    return write


def _by_hand(text: str) -> Write:
    return lambda path, canary: (path.write_bytes(text.format(canary=canary).encode()), None)[1]


def _nested(path: Path, canary: Path) -> None:
    """Write a file that asks for `torch.load` itself, without restrictions, of another file."""
    inner = path.with_suffix(".inner")
    torch.save(shell(canary), inner)
    _saved(lambda _: Calls(functools.partial(torch.load, str(inner), weights_only=False)))(path, canary)


def _tar(path: Path, canary: Path) -> None:
    """Write the format of torch before 0.1.10."""
    parts = {
        "sys_info": pickle.dumps({"little_endian": True}),
        "storages": pickle.dumps(0) + pickle.dumps([]),
        "tensors": pickle.dumps(0),
        "pickle": pickle.dumps({"more": shell(canary)}, 2),
    }
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in parts.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


def _script(path: Path, canary: Path) -> None:
    """Write a TorchScript archive, and exchange its pickle."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated; its files remain
        traced = torch.jit.trace(nn.Linear(2, 3), torch.ones(1, 2))
        torch.jit.save(traced, str(path))
    exchanged(path, pickle.dumps(shell(canary), 2))


def exchanged(path: Path, content: bytes, method: int = zipfile.ZIP_STORED) -> None:
    """Write an archive again, with another `data.pkl`."""
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, part in parts.items():
            archive.writestr(name, content if name.endswith("/data.pkl") else part)


def _new_pickle(protocol: int) -> Write:
    """Write an archive with a pickle of a protocol that torch does not use."""

    def write(path: Path, canary: Path) -> None:
        torch.save({"weight": torch.ones(2)}, path)
        exchanged(path, pickle.dumps({"more": shell(canary)}, protocol))

    return write


def _late(path: Path, canary: Path) -> None:
    """Write the old format, with a gadget in the last of its five pickles, the keys of its tensors."""
    torch.save({"weight": torch.ones(2)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    stream = io.BytesIO(content)
    for _ in range(4):
        list(pickletools.genops(stream))
    path.write_bytes(content[: stream.tell()] + pickle.dumps(shell(canary), 2))


def _array(canary: Path) -> Any:
    array = np.empty(1, dtype=object)
    array[0] = shell(canary)
    return array


# by kind: how it is written, and what the refusal must name; None for formats in which torch cannot tell
GADGETS: dict[str, tuple[Write, str | None]] = {
    "os.system": (_saved(shell), "posix.system"),
    "alone": (_alone(shell), "posix.system"),
    "eval": (_saved(lambda canary: Calls(eval, python(canary))), "builtins.eval"),
    "exec": (_saved(lambda canary: Calls(exec, python(canary))), "builtins.exec"),
    "subprocess.Popen": (_saved(lambda canary: Calls(subprocess.Popen, ["touch", str(canary)])), "Popen"),
    "subprocess.call": (_saved(lambda canary: Calls(subprocess.call, ["touch", str(canary)])), "call"),
    "os.mkdir": (_saved(lambda canary: Calls(os.mkdir, str(canary))), "posix.mkdir"),
    "pathlib": (_saved(lambda canary: Calls(Path.touch, canary)), "builtins.getattr"),
    "runpy": (_saved(lambda canary: Calls(runpy.run_path, str(_module(canary)))), "runpy.run_path"),
    "import": (_saved(lambda canary: Calls(importlib.import_module, _module(canary).stem)), "importlib.import_module"),
    "marshal": (_saved(_code), "marshal.loads"),
    "functools.partial": (
        _saved(lambda canary: Calls(functools.partial(os.system, f"touch '{canary}'"))),
        "functools.partial",
    ),
    "pickle.loads": (_saved(lambda canary: Calls(pickle.loads, pickle.dumps(shell(canary)))), "pickle.loads"),
    "torch.load": (_nested, "torch.serialization.load"),
    "__setstate__": (_saved(Restored), "tests.safety.gadgets.Restored"),
    "_rebuild": (
        _saved(lambda canary: Calls(torch._tensor._rebuild_from_type_v2, *_typed(canary))),
        "posix.system",
    ),
    "numpy": (_saved(_array), "posix.system"),
    "module": (_alone(Attached), "tests.safety.gadgets.Attached"),
    "old format": (_saved(shell, _use_new_zipfile_serialization=False), None),
    "old format, last pickle": (_late, None),
    "oldest format": (_tar, None),
    "TorchScript": (_script, None),
    "protocol 4": (_new_pickle(4), None),
    **{f"bare pickle {protocol}": (_pickled(protocol), None) for protocol in range(6)},
    "bare opcode INST": (_by_hand("(S\"touch '{canary}'\"\nios\nsystem\n."), None),
    "bare opcode OBJ": (_by_hand("(cos\nsystem\nS\"touch '{canary}'\"\no."), None),
    "bare opcodes without an end": (_by_hand("cos\nsystem\n(S\"touch '{canary}'\"\ntR"), None),
}


def _module(canary: Path) -> Path:
    path = canary.with_suffix(".py").with_name(f"made_{canary.stem}.py")
    path.write_text(python(canary))
    return path


def _typed(canary: Path) -> tuple[Any, ...]:
    return os.system, torch.Tensor, (f"touch '{canary}'",), None
