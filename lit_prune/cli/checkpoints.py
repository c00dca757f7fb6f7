"""What a checkpoint says about its run, against what the user typed.

Lightning takes the model's settings from a checkpoint and silently drops what was typed beside it. Here, the
settings of a checkpoint are the defaults of a run that is given one, and a typed value that contradicts them is
an error where it would change what is resumed or scored.
"""

from collections.abc import Mapping
from inspect import signature
from typing import Any

from lit_prune.errors import expected

__all__ = ["KEY", "Settings", "flat", "stored_settings", "take_stored"]

# where a checkpoint keeps what the command line knew about its run
KEY = "lit_prune"

# "model" and "data": arguments of the classes, as a configuration holds them; "run": seed_everything and name
Settings = dict[str, dict[str, Any]]

# where the images are and how they are loaded has no part in which numbers come out
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# a checkpoint holds its weights; the files that they were first read from are history
_ORIGINS = {"weights", "init_from"}


def stored_settings(checkpoint: Mapping[str, Any], classes: Mapping[str, type]) -> Settings:
    """Read the settings of the run that wrote a checkpoint.

    Args:
        checkpoint: A Lightning checkpoint, of our command line or of a Trainer in somebody's script.
        classes: What takes the settings of the groups "model" and "data".

    Returns:
        The settings by group, as far as the checkpoint tells.
    """
    if KEY in checkpoint:
        settings: Settings = checkpoint[KEY]["settings"]
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
        chosen[group] = {name: value for name, value in settings.items() if name not in free or name not in given}
    for name in _ORIGINS & set(chosen.get("model", {})):
        chosen["model"][name] = None
    return chosen


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name what is nested by dots: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


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
