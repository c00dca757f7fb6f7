"""The checkpoint format: reading weights safely, saving, and the settings that a checkpoint stores."""

import warnings
import zipfile
from collections.abc import Mapping
from contextlib import suppress
from inspect import signature
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.trust import check_callback_states, check_shape, malformed

# the entry of a checkpoint in which the command line stores what it knows about the run
KEY = "lit_prune"
# the format of that entry; it increases when older versions could no longer read it
FORMAT = 1

# "model" and "data": arguments of the classes, as in a configuration; "run": seed_everything and name
Settings = dict[str, dict[str, Any]]

_SHOWN = 3
# Lightning migrates checkpoints of version 1 itself
_LIGHTNING_VERSIONS = ("1", "2")
_ARCHIVE = b"PK\x03\x04"
_FOLDER = 0x10  # the attribute that marks a record of an archive as a folder
# the modules of the harmless names in most checkpoints; other names are shown first
_FAMILIAR = ("collections.", "lightning.", "numpy.", "torch.")
_GROUPS = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that a Trainer wrote.

    Args:
        path: Path of the file. It is read with `weights_only=True`, so nothing in it can run code.

    Returns:
        The checkpoint, its tensors on the CPU.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or not a checkpoint of a Trainer.
    """
    content = _read(path)
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise expected(
            "a checkpoint that a Trainer wrote",
            f"`{path}`, which holds something else",
            "`--model.weights` and `--model.init_from` take plain weights",
        )
    return _checked(content, path)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read only the weights in a file.

    Args:
        path: Path of a checkpoint, or of a state dict written by `torch.save`. It is read with `weights_only=True`.

    Returns:
        The weights by name, on the CPU.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or holds no weights.
    """
    content = _read(path)
    weights = content.get("state_dict", content) if isinstance(content, dict) else content
    _check_tensors(weights, path)
    return dict(weights)


def read_weights(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint, or plain weights in the form of a checkpoint.

    Args:
        path: Path of the file. It is read with `weights_only=True`, so nothing in it can run code.

    Returns:
        The checkpoint; for plain weights, a dictionary with the key "state_dict" alone.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or holds no weights.
    """
    content = _read(path)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        # other training loops also write their weights under "state_dict"
        content = {"state_dict": content.get("state_dict", content) if isinstance(content, dict) else content}
    return _checked(content, path)


def check_fit(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights match those of a module, one for one.

    Args:
        module: Module that the weights will be loaded into.
        weights: Weights by name. `num_batches_tracked` of batch norms may be missing, as in old files.
        path: Path of the weights, for the message.

    Raises:
        InputError: If a weight is missing, unexpected, or of another shape.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in own]
    reshaped = [n for n in own if n in weights and own[n].shape != weights[n].shape]
    faults = []
    if missing:
        faults.append(f"without {_some(missing)}")
    if unexpected:
        faults.append(f"with the additional {_some(unexpected)}")
    if reshaped:
        name = reshaped[0]
        faults.append(f"with `{name}` of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}")
    if faults:
        raise expected(
            f"the weights of a {type(module).__name__} in `{path}`",
            f"weights {' and '.join(faults)}",
            "these are weights of another architecture; `stem` changes the shape of the first convolution",
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_SHOWN])
    more = len(names) - _SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def save(content: Any, path: Path) -> None:
    """Call `torch.save`, and report a full disk as the `OSError` that it is.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # torch's writer fails again when it is closed, which hides the error of the file system
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def stored_settings(checkpoint: Mapping[str, Any], classes: Mapping[str, type]) -> Settings:
    """Return the settings of the run that wrote a checkpoint.

    They come from an untrusted file: call `check_stored_settings` before building anything from them.

    Args:
        checkpoint: Checkpoint as `read_checkpoint` returned it, of the command line or of a Trainer in a script.
        classes: Classes that take the settings of the groups "model" and "data".

    Returns:
        The settings by group, as far as the checkpoint holds them.
    """
    if KEY in checkpoint:
        settings: Settings = checkpoint[KEY]["settings"]
        return settings
    return {
        group: {n: v for n, v in checkpoint.get(key, {}).items() if n in signature(classes[group]).parameters}
        for group, key in _GROUPS.items()
    }


def _read(path: str | Path) -> Any:
    """Load an untrusted file."""
    path = Path(path)
    if not path.is_file():
        raise expected("the path of a file with weights", f"`{path}`, where there is no file", "check the path")
    try:
        with path.open("rb") as file:
            _check_archive(file, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats; the errors below cover what matters
                return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise _refusal(path) from error


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Compare the records of an archive with their CRC-32, which `torch.load` never does."""
    compressed = False
    try:
        if file.read(len(_ARCHIVE)) == _ARCHIVE:  # the format of torch before 1.6 has no checksums
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
                # torch leaves the memory of a record as it finds it if a flipped bit makes the record a folder
                folders = any(record.external_attr & _FOLDER and record.file_size for record in records)
                # every CRC is zero if torch was told to compute none
                checked = not compressed and any(record.CRC for record in records)
                if folders or (checked and archive.testzip() is not None):
                    raise zipfile.BadZipFile
    except Exception as error:  # damaged bytes make the parser of archives raise anything
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"`{path}` is truncated or damaged. Copy or write it again.") from error
    if compressed:  # a small file could fill the memory
        hint = "`torch.save` never compresses; write the file again with it"
        raise expected("a checkpoint or a state dict", f"`{path}`, whose records are compressed", hint)
    file.seek(0)


def _refusal(path: Path) -> InputError:
    """Describe a file that `torch.load` refused."""
    asked: list[str] = []
    with suppress(Exception):  # raised for anything but a whole archive of `torch.save`
        asked = sorted(get_unsafe_globals_in_checkpoint(path), key=lambda name: (name.startswith(_FAMILIAR), name))
    if asked:
        names = ", ".join(shorten(name.encode("unicode_escape").decode()) for name in asked[:_SHOWN])
        more = f" and {len(asked) - _SHOWN} more" if len(asked) > _SHOWN else ""
        return expected(
            "a file with nothing but tensors and plain values",
            f"`{path}`, which is unsafe: it asks for {names}{more}",
            "loading it could run code; save the `state_dict` alone",
        )
    return expected(
        "a checkpoint or a state dict",
        f"`{path}`, which is neither, or needs more than `torch.load(weights_only=True)` allows",
        "give a file with tensors and plain values, written by a Trainer or `torch.save`; others could run code",
    )


def _checked(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Check what will be used of a checkpoint without being asked for."""
    if "pytorch-lightning_version" in content:
        _check_version(content["pytorch-lightning_version"], path)
    _check_tensors(content.get("state_dict"), path)
    own = content.get(KEY, {"settings": {}})
    if not isinstance(own, Mapping):
        raise malformed(path, KEY)
    if (found := own.get("format", 0)) not in range(FORMAT + 1):
        hint = "`pip install --upgrade lit-prune` if a newer version wrote it"
        raise expected(f"a checkpoint in format {FORMAT} or older", f"`{path}` in format {found!r}", hint)
    check_shape(own.get("settings"), path)
    for key in (*_GROUPS.values(), "callbacks"):
        if not isinstance(content.get(key, {}), Mapping):
            raise malformed(path, key)
    check_callback_states(content.get("callbacks", {}), path)
    return content


def _check_version(version: Any, path: str | Path) -> None:
    """Refuse versions of Lightning whose checkpoints could only be guessed at."""
    what = f"a checkpoint of Lightning 2 in `{path}`"
    if not isinstance(version, str) or not version[:1].isdigit():
        raise expected(what, f"the version {version!r}", "check which program wrote it")
    if version.split(".")[0] not in _LIGHTNING_VERSIONS:
        raise expected(what, f"version {version[:20]}", "give it to `--model.init_from`, which takes its weights alone")


def _check_tensors(weights: Any, path: str | Path) -> None:
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items())
    ):
        raise expected(
            "tensors by name",
            f"`{path}`, which holds something else",
            "save `module.state_dict()`, or give a checkpoint of a Trainer",
        )
