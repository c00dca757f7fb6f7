"""How the settings in a checkpoint and the user's options combine.

Lightning takes the model's settings from a checkpoint and silently ignores the user's. Here, the settings in the
checkpoint are the defaults. An option that contradicts them is an error if it would change the training that is
resumed or the network that is evaluated.
"""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from lit_prune.errors import expected
from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten

# settings that do not change the results: where the images are, and how they are loaded
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# settings that name files with initial weights; the weights in the checkpoint replace these
_ORIGINS = {"weights", "init_from"}


def collect_settings(config: Namespace) -> Settings:
    """Return the options of model and data, the random seed and the name of a run, as plain values by group."""
    groups = {group: config[group].as_dict() for group in ("model", "data") if group in config}
    return groups | {"run": {name: config[name] for name in ("seed_everything", "name") if name in config}}


def apply_stored_settings(stored: Settings, given: Settings, command: str, path: str) -> Settings:
    """Return the settings of a checkpoint that the user's options do not override.

    Args:
        stored: Settings of the checkpoint, by group.
        given: The user's settings from the command line, configurations and the environment, by group.
        command: "fit", "validate", "test" or "predict".
        path: Path of the checkpoint, for messages.

    Returns:
        The stored settings by group, without those that the user overrides.

    Raises:
        InputError: If a user's setting contradicts a stored one that must not change.
    """
    chosen: Settings = {}
    for group, settings in stored.items():
        if group == "run" and command != "fit":
            continue
        own = given.get(group, {})
        free = _free(group, settings, command)
        known = flatten(settings)
        for name, value in flatten(own).items():
            top = name.split(".")[0]
            if top in settings and top not in free and known.get(name) != value:
                option = f"{group}.{name}".removeprefix("run.").replace(".init_args.", ".").removesuffix(".class_path")
                raise expected(f"`{option}` to be {known.get(name)!r} as in `{path}`", value, _hint(command))
        if "class_path" in own and "class_path" in free:  # the stored arguments are those of another class
            continue
        chosen[group] = {name: value for name, value in settings.items() if name not in free or name not in own}
    for name in _ORIGINS & set(chosen.get("model", {})):
        chosen["model"][name] = None
    return chosen


def _free(group: str, settings: Mapping[str, Any], command: str) -> set[str]:
    """Names of the settings that the user may override."""
    if group == "run":
        return {"name"}
    if group == "data":
        return _FREE_DATA_SETTINGS if command == "fit" else set(settings)
    return set()


def _hint(command: str) -> str:
    if command == "fit":
        return "`--ckpt_path` resumes a run unchanged; to start a new run from its weights, use `--model.init_from`"
    return "leave the option out: the checkpoint stores the settings of its model"
