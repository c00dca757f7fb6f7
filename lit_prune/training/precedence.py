"""How the settings in a checkpoint and the user's options combine.

LightningCLI takes the model's settings from the checkpoint, and silently ignores the user's options. In this project,
the settings in the checkpoint replace the default values of options. An option that differs from its stored value is an
error if it would change the training that is resumed or the network that is evaluated.
"""

from collections.abc import Mapping
from typing import Any

from jsonargparse import Namespace

from lit_prune.errors import expected
from lit_prune.files.checkpoint import Settings
from lit_prune.files.nested import flatten

# settings of the data that do not change a training: where the images are, and how they are loaded
_FREE_DATA_SETTINGS = {"data_dir", "eval_batch_size", "num_workers", "predict_path"}
# settings of the model that choose its initial weights; not needed, because the checkpoint holds the weights
_ORIGINS = {"weights", "init_from"}


def collect_settings(config: Namespace) -> Settings:
    """Return the options as plain values, in groups: "model", "data" and "run" (random seed and name of the run)."""
    groups = {group: config[group].as_dict() for group in ("model", "data") if group in config}
    return groups | {"run": {name: config[name] for name in ("seed_everything", "name") if name in config}}


def select_stored_settings(
    stored: Settings, given: Settings, command: str, path: str, resume: bool = False
) -> Settings:
    """Return the settings of a checkpoint that the user's options do not override.

    Args:
        stored: Settings of the checkpoint, by group.
        given: The user's settings from the command line, configurations and the environment, by group.
        command: "fit", "validate", "test" or "predict".
        path: Path of the checkpoint, for messages.
        resume: Whether `--resume` found the checkpoint, for messages.

    Returns:
        The stored settings by group, without those that the user overrides.

    Raises:
        InputError: If an option of the user differs from a stored setting that must not change.
    """
    chosen: Settings = {}
    hint = _hint(command, resume, custom_model="class_path" in given.get("model", {}))
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
                raise expected(f"`{option}` to be {known.get(name)!r} as in `{path}`", value, hint)
        if "class_path" in own and "class_path" in free:  # the user may have named another class, with other arguments
            continue
        chosen[group] = {name: value for name, value in settings.items() if name not in free or name not in own}
    for name in _ORIGINS & set(chosen.get("model", {})):
        chosen["model"][name] = None
    return chosen


def _free(group: str, settings: Mapping[str, Any], command: str) -> set[str]:
    """Return the names of the settings in a group that the user may override."""
    if group == "run":
        return {"name"}
    if group == "data":
        return _FREE_DATA_SETTINGS if command == "fit" else set(settings)
    return set()


def _hint(command: str, resume: bool, custom_model: bool) -> str:
    if resume:
        return (
            "`--resume` resumes a run unchanged; to start a new run, leave out `--resume`, or choose another `--name`"
        )
    if command == "fit":
        option = "--init_from" if custom_model else "--model.init_from"
        return f"`--ckpt_path` resumes a run unchanged; to start a new run from its weights, use `{option}`"
    return "leave the option out: the checkpoint stores the settings of its model"
