"""Read checkpoints and state dicts safely, write them, and extract the settings that a checkpoint stores."""

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

from lit_prune.errors import InputError, expected, first_few, shorten
from lit_prune.files.trust import check_callback_states, check_settings_structure, malformed

# the key of a checkpoint under which the command line stores the settings and results of the run
KEY = "lit_prune"
# version of that entry's format; increase it with each change that older versions of lit-prune cannot read
FORMAT = 1

# settings by group: "model" and "data" hold arguments as in a `config.yaml`, "run" holds `seed_everything` and `name`
Settings = dict[str, dict[str, Any]]

# Lightning 2 converts checkpoints of Lightning 1 when it loads them
_LIGHTNING_VERSIONS = ("1", "2")
_ARCHIVE = b"PK\x03\x04"  # first bytes of a zip archive
_FOLDER = 0x10  # attribute bit that marks a record of a zip archive as a folder
# results that `fit` stores under `KEY`: the type of their values, and names that must be there unless a result is empty
_RESULTS = {
    "best": (int | float | str, {"val_acc", "val_loss", "epoch", "checkpoint"}),
    "final": (int | float, set[str]()),
    "pending": (int | float, {"epoch"}),
}
# harmless checkpoints also contain objects of these packages, so an error lists names in other packages first
_FAMILIAR = ("collections.", "lightning.", "lightning_fabric.", "numpy.", "pytorch_lightning.", "torch.")
_GROUPS = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that a Trainer wrote.

    Args:
        path: Path of the file. It is read with `weights_only=True`, so nothing in it can run code.

    Returns:
        The checkpoint, with all tensors on the CPU.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or not a checkpoint of a Trainer.
    """
    content = _read(path)
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise expected(
            "a checkpoint that a Trainer wrote",
            f"`{path}`, which holds something else",
            "pass a state dict to `--model.weights` or `--model.init_from` instead",
        )
    return _checked(content, path)


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read only the weights from a file.

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
    """Read a checkpoint of Lightning, or a file that holds only weights.

    Args:
        path: Path of the file. It is read with `weights_only=True`, so nothing in it can run code.

    Returns:
        The checkpoint. If Lightning did not write the file: `{"state_dict": weights}`.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or holds no weights.
    """
    content = _read(path)
    if not isinstance(content, dict) or "pytorch-lightning_version" not in content:
        # other training loops also store the weights under "state_dict"
        content = {"state_dict": content.get("state_dict", content) if isinstance(content, dict) else content}
    return _checked(content, path)


def check_state_dict(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that a state dict has exactly the names and shapes of a module's state dict.

    Args:
        module: Module that the weights will be loaded into.
        weights: State dict. `num_batches_tracked` of batch norms may be missing, as in files of PyTorch before 0.4.1.
        path: Path of the file with the weights, for the message.

    Raises:
        InputError: If a weight is missing, unexpected, or has another shape.
    """
    own = module.state_dict()
    missing = [f"`{n}`" for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [f"`{n}`" for n in weights if n not in own]
    reshaped = [n for n in own if n in weights and own[n].shape != weights[n].shape]
    faults = []
    if missing:
        faults.append(f"without {first_few(missing)}")
    if unexpected:
        faults.append(f"with the additional {first_few(unexpected)}")
    if reshaped:
        name = reshaped[0]
        faults.append(f"with `{name}` of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}")
    if faults:
        raise expected(
            f"the weights of a {type(module).__name__} in `{path}`",
            f"weights {' and '.join(faults)}",
            "the file belongs to another architecture, or its class does not call `save_hyperparameters()`; for "
            "`LitResNet18`, check the argument `stem`",
        )


def save(content: Any, path: Path) -> None:
    """Call `torch.save`, but raise an `OSError` instead of a `RuntimeError` if the disk is full.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
    except RuntimeError as error:
        # closing torch's writer fails too, with a `RuntimeError` that hides the `OSError` of the failed write
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def stored_settings(checkpoint: Mapping[str, Any], classes: Mapping[str, type]) -> Settings:
    """Return the settings of the run that wrote a checkpoint.

    The file is untrusted: call `check_stored_settings` before building anything from its settings.

    Args:
        checkpoint: Checkpoint as returned by `read_checkpoint`, written by the command line or a Trainer in a script.
        classes: Classes of the model and the data module, by group. For a checkpoint of a script, the settings are the
            stored hyper-parameters that these classes take as arguments.

    Returns:
        The settings by group; settings that the checkpoint lacks are left out.
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
        raise expected("the path of a file with weights", f"`{path}`, which does not exist", "check the path")
    try:
        with path.open("rb") as file:
            _check_archive(file, path)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # ignore warnings about old formats, which load nevertheless
                return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error
    except Exception as error:  # a damaged file can make the unpickler raise any exception
        raise _refusal(path) from error


def _check_archive(file: BinaryIO, path: Path) -> None:
    """Refuse a zip archive that is compressed or damaged; `torch.load` does not verify the CRC-32 of its records."""
    compressed = False
    try:
        if file.read(len(_ARCHIVE)) == _ARCHIVE:  # torch before 1.6 wrote other formats, without checksums
            with zipfile.ZipFile(file) as archive:
                records = archive.infolist()
                compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
                # if a flipped bit marks a record as a folder, torch leaves the record's tensor uninitialized
                folders = any(record.external_attr & _FOLDER and record.file_size for record in records)
                # every CRC is zero if `torch.serialization.set_crc32_options(False)` was called before saving
                checked = not compressed and any(record.CRC for record in records)
                if folders or (checked and archive.testzip() is not None):
                    raise zipfile.BadZipFile
    except Exception as error:  # a damaged file can make `zipfile` raise any exception
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"`{path}` is truncated or damaged. Copy or write it again.") from error
    if compressed:  # a small file could unpack to more data than fits in memory
        hint = "write the file again with `torch.save`, which never compresses"
        raise expected("a checkpoint or a state dict", f"`{path}`, whose records are compressed", hint)
    file.seek(0)


def _refusal(path: Path) -> InputError:
    """Build the error for a file that `torch.load` refused to load."""
    asked: list[str] = []
    with suppress(Exception):  # raised for damaged files and for formats other than the zip archive of `torch.save`
        asked = sorted(get_unsafe_globals_in_checkpoint(path), key=lambda name: (name.startswith(_FAMILIAR), name))
    if asked:
        names = first_few(shorten(name.encode("unicode_escape").decode()) for name in asked)
        return expected(
            "a file with nothing but tensors and plain values",
            f"`{path}`, which is unsafe: loading it also needs {names}",
            "loading the file could run code; save only the `state_dict` of the model",
        )
    return expected(
        "a checkpoint or a state dict",
        f"`{path}`, which is neither, or contains objects that `torch.load(weights_only=True)` refuses to load",
        "pass a file with tensors and plain values, written by a Trainer or `torch.save`; other files could run code",
    )


def _checked(content: dict[str, Any], path: str | Path) -> dict[str, Any]:
    """Check the version, weights, own entry, settings and callback states of an untrusted checkpoint, and return it."""
    if "pytorch-lightning_version" in content:
        _check_version(content["pytorch-lightning_version"], path)
    _check_tensors(content.get("state_dict"), path)
    own = content.get(KEY, {"settings": {}})
    if not isinstance(own, Mapping):
        raise malformed(path, KEY)
    found = own.get("format", 0)
    if not isinstance(found, int) or found not in range(FORMAT + 1):
        hint = "if a newer lit-prune wrote the file, run `pip install --upgrade lit-prune`"
        raise expected(f"a checkpoint in format {FORMAT} or older", f"`{path}` in format {found!r}", hint)
    check_settings_structure(own.get("settings"), path)
    _check_results(own, path)
    for key in (*_GROUPS.values(), "callbacks"):
        if not isinstance(content.get(key, {}), Mapping):
            raise malformed(path, key)
    check_callback_states(content.get("callbacks", {}), path)
    return content


def _check_results(own: Mapping[str, Any], path: str | Path) -> None:
    """Check the types of the results, logs, limits and callback names that a run resumes with."""
    logs = own.get("logs", {})
    events = logs.get("events", {}) if isinstance(logs, Mapping) else None
    if not _holds(events, int) or not isinstance(logs.get("rows", 0), int):
        raise malformed(path, f"{KEY}.logs")
    for name, (kind, needed) in _RESULTS.items():
        entry = own.get(name, {})
        if not _holds(entry, kind) or (entry and not needed <= entry.keys()):
            raise malformed(path, f"{KEY}.{name}")
    for name in ("max_epochs", "max_steps", "max_time"):
        if not isinstance(own.get(name), int | str | None):
            raise malformed(path, f"{KEY}.{name}")
    callbacks = own.get("callbacks", [])
    if not isinstance(callbacks, list) or not all(isinstance(name, str) for name in callbacks):
        raise malformed(path, f"{KEY}.callbacks")


def _holds(entry: Any, kind: Any) -> bool:
    return isinstance(entry, Mapping) and all(isinstance(value, kind) for value in entry.values())


def _check_version(version: Any, path: str | Path) -> None:
    """Raise an `InputError` unless Lightning 1 or 2 wrote the checkpoint; the formats of later versions are unknown."""
    what = f"a checkpoint of Lightning 1 or 2 in `{path}`"
    if not isinstance(version, str) or not version[:1].isdigit():
        raise expected(what, f"the version {version!r}", "check which program wrote the file")
    if version.split(".")[0] not in _LIGHTNING_VERSIONS:
        hint = "pass the file to `--model.init_from`, which loads only the weights"
        raise expected(what, f"version {version[:20]}", hint)


def _check_tensors(weights: Any, path: str | Path) -> None:
    if (
        not isinstance(weights, Mapping)
        or not weights
        or not all(isinstance(name, str) and isinstance(value, Tensor) for name, value in weights.items())
    ):
        raise expected(
            "a state dict, with tensors by name",
            f"`{path}`, which holds something else",
            "save `module.state_dict()`, or pass a checkpoint that a Trainer wrote",
        )
