"""Settings of a checkpoint against those given on the command line.

Lightning takes the model's settings from a checkpoint and silently drops those given with it. Here, the settings of a
checkpoint are the defaults of a run that uses it, and a given value that contradicts them is an error if it would
change what is resumed or scored.
"""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from lit_prune.errors import expected
from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten

# where the images are and how they are loaded does not change the results
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# files with initial weights; a checkpoint holds weights of its own
_ORIGINS = {"weights", "init_from"}


def collect_settings(config: Namespace) -> Settings:
    """Collect the options that determine a run's results, and its name, as plain values by group."""
    groups = {group: config[group].as_dict() for group in ("model", "data") if group in config}
    return groups | {"run": {name: config[name] for name in ("seed_everything", "name") if name in config}}


def apply_stored_settings(stored: Settings, given: Settings, command: str, path: str) -> Settings:
    """Choose the settings that a checkpoint determines.

    Args:
        stored: Settings of the checkpoint, by group.
        given: Settings from the command line, configurations and the environment, by group.
        command: "fit", "validate", "test" or "predict".
        path: Path of the checkpoint, for messages.

    Returns:
        The stored settings, without those that the user changed and may change.

    Raises:
        InputError: If a given value contradicts the checkpoint.
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
        if "class_path" in own and "class_path" in free:  # another class has other arguments
            continue
        chosen[group] = {name: value for name, value in settings.items() if name not in free or name not in own}
    for name in _ORIGINS & set(chosen.get("model", {})):
        chosen["model"][name] = None
    return chosen


def _free(group: str, settings: Mapping[str, Any], command: str) -> set[str]:
    """Names of the settings that the user may change."""
    if group == "run":
        return {"name"}
    if group == "data":
        return _FREE_DATA_SETTINGS if command == "fit" else set(settings)
    return set()


def _hint(command: str) -> str:
    if command == "fit":
        return "`--ckpt_path` continues a run as it was; to start a new one from its weights, use `--model.init_from`"
    return "leave the option out: the checkpoint knows how its model was built"
