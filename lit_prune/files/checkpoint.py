"""Reading weights from files, safely, and saying in one sentence why a file cannot be used."""

import pickle
import warnings
import zipfile
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, expected
from lit_prune.files.checksums import fault_of, seal
from lit_prune.files.trust import check_checkpoint
from lit_prune.files.unpickling import unsafe_requests

__all__ = [
    "FORMAT",
    "KEY",
    "Settings",
    "check_fit",
    "read_checkpoint",
    "read_state_dict",
    "read_weights",
    "save",
    "stored_settings",
]

# where a checkpoint keeps what the command line knew about its run
KEY = "lit_prune"
# of what is under that key; a number goes up when an older version could not make sense of it
FORMAT = 1

# "model" and "data": arguments of the classes, as a configuration holds them; "run": seed_everything and name
Settings = dict[str, dict[str, Any]]

_NAMED = 3
# of Lightning; the first of them is close enough for its own migration
_VERSIONS = ("1", "2")


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that a Trainer wrote.

    Args:
        path: The file. It is read with `weights_only=True`: nothing in it can run code.

    Returns:
        The checkpoint, its tensors on the CPU.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or no checkpoint of a Trainer.
    """
    content = _read(path)
    if not isinstance(content, dict) or not {"state_dict", "pytorch-lightning_version"} <= content.keys():
        raise expected(
            "a checkpoint that a Trainer wrote",
            f"`{path}`, which holds something else",
            "bare weights go into `--model.weights`",
        )
    _check_version(content["pytorch-lightning_version"], path)
    _check_tensors(content["state_dict"], path)
    check_checkpoint(content, str(path))
    return content


def read_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a file.

    Args:
        path: A checkpoint of a Trainer, or a state dict written by `torch.save`. It is read with `weights_only=True`.

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
    """Read a checkpoint of a Trainer, or bare weights as if they were one.

    Args:
        path: The file. It is read with `weights_only=True`: nothing in it can run code.

    Returns:
        What is in the checkpoint, or the weights as its "state_dict" alone.

    Raises:
        InputError: If the file is missing, damaged, unsafe, or holds no weights.
    """
    content = _read(path)
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        _check_version(content["pytorch-lightning_version"], path)
    elif isinstance(content, dict) and "state_dict" in content:
        content = {"state_dict": content["state_dict"]}  # of a training loop of somebody's own
    else:
        content = {"state_dict": content}
    _check_tensors(content.get("state_dict"), path)
    check_checkpoint(content, str(path))
    return content


def check_fit(module: nn.Module, weights: Mapping[str, Tensor], path: str | Path) -> None:
    """Check that weights are those of a module, one for one.

    Args:
        module: The module that they shall be loaded into.
        weights: Weights by name. The counters of batch norms may be missing, as in files of old.
        path: Where the weights come from, for the message.

    Raises:
        InputError: If a weight is missing, has no place, or has another shape.
    """
    own = module.state_dict()
    missing = [n for n in own if n not in weights and not n.endswith("num_batches_tracked")]
    unexpected = [n for n in weights if n not in own]
    reshaped = [n for n in own if n in weights and own[n].shape != weights[n].shape]
    faults = []
    if missing:
        faults.append(f"without {_some(missing)}")
    if unexpected:
        faults.append(f"with {_some(unexpected)} as well")
    if reshaped:
        name = reshaped[0]
        faults.append(f"with `{name}` of shape {tuple(weights[name].shape)} instead of {tuple(own[name].shape)}")
    if faults:
        raise expected(
            f"the weights of a {type(module).__name__} in `{path}`",
            f"weights {' and '.join(faults)}",
            "these are weights of another architecture; `stem` changes the shape of the first convolution",
        )


def _check_version(version: Any, path: str | Path) -> None:
    """Refuse what Lightning could read only by guessing."""
    what = f"a checkpoint of Lightning 2 in `{path}`"
    if not isinstance(version, str) or not version[:1].isdigit():
        raise expected(what, f"the version {version!r}", "check which program wrote it")
    if version.split(".")[0] not in _VERSIONS:
        raise expected(what, f"one of version {version[:20]}", "give its weights to `--model.init_from`")


def _read(path: str | Path) -> Any:
    """Load a file that is not trusted."""
    path = Path(path)
    if not path.is_file():
        raise expected("the path of a file with weights", f"`{path}`, where there is no file", "check the path")
    try:
        with path.open("rb") as file:
            if (fault := fault_of(file)) is not None:
                raise expected("a whole checkpoint", f"`{path}`, {fault}", "copy or write it again")
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about formats; what matters about them is said in one sentence
                return torch.load(file, map_location="cpu", weights_only=True)
    except InputError:
        raise
    except OSError as error:
        raise expected("a file that can be read", f"`{path}` ({error.strerror})", "check its permissions") from error
    except Exception as error:  # damaged bytes make the unpickler raise anything
        raise _explain(path, error) from error


def _explain(path: Path, error: Exception) -> InputError:
    """Say why `torch.load` failed."""
    asked = unsafe_requests(path)
    if asked or (zipfile.is_zipfile(path) and isinstance(error, pickle.UnpicklingError)):
        more = f" and {len(asked) - _NAMED} more" if len(asked) > _NAMED else ""
        return expected(
            "a file with nothing but weights and plain values",
            f"`{path}`, which is unsafe: it asks for {', '.join(asked[:_NAMED]) or 'objects'}{more}",
            "loading it could run code; save the `state_dict` alone",
        )
    with path.open("rb") as file:
        archive = file.read(2) == b"PK"
    if archive:
        return expected("a whole checkpoint", f"`{path}`, which is truncated or damaged", "copy or write it again")
    return expected(
        "a checkpoint or a state dict",
        f"`{path}`, which is neither",
        "give a file that a Trainer or `torch.save` wrote",
    )


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


def _some(names: list[str]) -> str:
    shown = ", ".join(f"`{name}`" for name in names[:_NAMED])
    more = len(names) - _NAMED
    return f"{shown} and {more} more" if more > 0 else shown


def save(content: Any, path: Path) -> None:
    """Call `torch.save`, whose own words for a full disk are a page, and add a checksum.

    Raises:
        OSError: If the file cannot be written.
    """
    try:
        with path.open("wb") as file:
            torch.save(content, file)
        seal(path)
    except RuntimeError as error:
        # the writer of archives fails again when it is closed, and hides what the file system said
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__context__
        if cause is None:
            raise
        raise OSError(cause.errno, cause.strerror, str(path)) from error


def stored_settings(checkpoint: Mapping[str, Any], classes: Mapping[str, type], path: str) -> Settings:
    """Read the settings of the run that wrote a checkpoint.

    Args:
        checkpoint: A Lightning checkpoint, of our command line or of a Trainer in somebody's script.
        classes: What takes the settings of the groups "model" and "data".
        path: The checkpoint's path, for the message.

    Returns:
        The settings by group, as far as the checkpoint tells.

    Raises:
        InputError: If a newer version wrote it in a format of its own.
    """
    if KEY in checkpoint:
        known = checkpoint[KEY] if isinstance(checkpoint[KEY], Mapping) else {"format": checkpoint[KEY]}
        if (found := known.get("format", 0)) not in range(FORMAT + 1):
            hint = "`pip install --upgrade lit-prune` if a newer version wrote it"
            raise expected(f"a checkpoint in format {FORMAT} or older", f"`{path}` in format {found!r}", hint)
        settings: Settings = known.get("settings", {})
        return settings
    groups = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}
    return {
        group: {n: v for n, v in checkpoint.get(key, {}).items() if n in signature(classes[group]).parameters}
        for group, key in groups.items()
    }
