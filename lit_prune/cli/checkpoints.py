"""What a checkpoint says about its run, against what the user typed.

Lightning takes the model's settings from a checkpoint and silently drops what was typed beside it. Here, the
settings of a checkpoint are the defaults of a run that is given one, and a typed value that contradicts them is
an error where it would change what is resumed or scored.
"""

import os
from collections.abc import Mapping
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins import TorchCheckpointIO

from lit_prune.checksums import seal
from lit_prune.cli.flat import flat
from lit_prune.cli.stored import check_content
from lit_prune.errors import expected
from lit_prune.files import replacing
from lit_prune.weights import read_checkpoint

__all__ = ["FORMAT", "KEY", "Settings", "WholeCheckpoints", "save", "stored_settings", "take_stored"]

# where a checkpoint keeps what the command line knew about its run
KEY = "lit_prune"
# of what is under that key; a number goes up when an older version could not make sense of it
FORMAT = 1

# "model" and "data": arguments of the classes, as a configuration holds them; "run": seed_everything and name
Settings = dict[str, dict[str, Any]]

# where the images are and how they are loaded has no part in which numbers come out
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# a checkpoint holds its weights; the files that they were first read from are history
_ORIGINS = {"weights", "init_from"}


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a killed run leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, whole or not at all; a path that is no local file is left to Lightning."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save(checkpoint, part)
            if path.name == "last.ckpt":
                _keep_one_before(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, verified and without running anything in it, whatever is asked for."""
        if "://" in str(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
            return loaded
        content = read_checkpoint(path)
        check_content(content, str(path))
        return content


def _keep_one_before(path: Path) -> None:
    """Keep the last checkpoint but one: if a disk spoils the last, the run goes on from there."""
    if not path.exists():
        return
    before = path.with_name("previous.ckpt")
    link = before.with_suffix(".link.part")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)  # one more name for the file that is about to be replaced: no byte is copied
        link.replace(before)
    except OSError:  # not every file system has such links
        link.unlink(missing_ok=True)


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


def take_stored(stored: Settings, typed: Settings, command: str, path: str) -> Settings:
    """Choose the settings that a checkpoint decides.

    Args:
        stored: What `stored_settings` returned.
        typed: What the user gave on the command line, in a configuration or in the environment, by group.
        command: "fit", "validate", "test" or "predict".
        path: The checkpoint's path, for the message.

    Returns:
        The stored settings, without those that the user may and did give anew.

    Raises:
        InputError: If a typed value contradicts the checkpoint.
    """
    chosen: Settings = {}
    for group, settings in stored.items():
        if group == "run" and command != "fit":
            continue
        given = typed.get(group, {})
        free = _free(group, settings, command)
        known = flat(settings)
        for name, value in flat(given).items():
            top = name.split(".")[0]
            if top in settings and top not in free and known.get(name) != value:
                option = (
                    f"--{group}.{name}".removeprefix("--run.").replace(".init_args.", ".").removesuffix(".class_path")
                )
                raise expected(
                    f"`--{option.lstrip('-')}` to be {known.get(name)!r} as in `{path}`", value, _hint(command)
                )
        if "class_path" in given and "class_path" in free:  # arguments belong to their class
            continue
        chosen[group] = {name: value for name, value in settings.items() if name not in free or name not in given}
    for name in _ORIGINS & set(chosen.get("model", {})):
        chosen["model"][name] = None
    return chosen


def _free(group: str, settings: Mapping[str, Any], command: str) -> set[str]:
    """Settings that the user may give anew without contradicting the checkpoint."""
    if group == "run":
        return {"name"}
    if group == "data":
        return _FREE_DATA_SETTINGS if command == "fit" else set(settings)
    return set()


def _hint(command: str) -> str:
    if command == "fit":
        return "`--ckpt_path` goes on with a run as it was; to start anew from its weights, give `--model.init_from`"
    return "leave the option out: the checkpoint knows how its model was built"
