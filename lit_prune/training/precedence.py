"""What a checkpoint says about its run, against what the user typed.

Lightning takes the model's settings from a checkpoint and silently drops what was typed beside it. Here, the
settings of a checkpoint are the defaults of a run that is given one, and a typed value that contradicts them is
an error where it would change what is resumed or scored.
"""

from collections.abc import Mapping
from typing import Any

from lit_prune.errors import expected
from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten

__all__ = ["apply_stored_settings"]

# where the images are and how they are loaded has no part in which numbers come out
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# a checkpoint holds its weights; the files that they were first read from are history
_ORIGINS = {"weights", "init_from"}


def apply_stored_settings(stored: Settings, typed: Settings, command: str, path: str) -> Settings:
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
        known = flatten(settings)
        for name, value in flatten(given).items():
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
