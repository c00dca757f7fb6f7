"""What a checkpoint says about its run, against what the user typed.

Lightning takes the model's settings from a checkpoint and silently drops what was typed beside it. Here, the
settings of a checkpoint are the defaults of a run that is given one, and a typed value that contradicts them is
an error where it would change what is resumed or scored.
"""

from collections.abc import Mapping
from typing import Any

from lit_prune.errors import expected

__all__ = ["check_seed", "stored_settings", "take_stored"]

# where the images are and how they are loaded has no part in which numbers come out
_FREE_DATA_SETTINGS = {"data_dir", "num_workers", "predict_path"}


def stored_settings(checkpoint: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Read the model and data settings out of a checkpoint.

    Args:
        checkpoint: A Lightning checkpoint.

    Returns:
        The settings by group, "model" and "data"; without the marks that Lightning adds, and without the files
        that weights were first read from, because the checkpoint holds the weights.
    """
    groups = {"model": "hyper_parameters", "data": "datamodule_hyper_parameters"}
    return {
        group: {
            name: value
            for name, value in checkpoint.get(key, {}).items()
            if not name.startswith("_") and name not in ("initial_weights", "weights", "init_from")
        }
        for group, key in groups.items()
    }


def take_stored(
    stored: Mapping[str, dict[str, Any]], typed: Mapping[str, dict[str, Any]], command: str, path: str
) -> dict[str, dict[str, Any]]:
    """Choose the settings that a checkpoint decides.

    Args:
        stored: What `stored_settings` returned.
        typed: What the user gave on the command line, in a configuration or in the environment, by group and
            dotted name.
        command: "fit", "validate", "test" or "predict".
        path: The checkpoint's path, for the message.

    Returns:
        The stored settings, without those that the user may and did give anew.

    Raises:
        InputError: If a typed value contradicts the checkpoint.
    """
    chosen: dict[str, dict[str, Any]] = {}
    for group, settings in stored.items():
        given = typed.get(group, {})
        known = _flat(settings)
        for name, value in given.items():
            free = group == "data" and (command != "fit" or name in _FREE_DATA_SETTINGS)
            if not free and name in known and known[name] != value:
                shown = f"--{group}.{name.replace('init_args.', '').removesuffix('.class_path')}"
                raise expected(
                    f"`{shown}` to be {known[name]!r} as in `{path}`",
                    value,
                    _hint(command),
                )
        free_names = {name.split(".")[0] for name in given} if command != "fit" else _FREE_DATA_SETTINGS
        chosen[group] = {name: value for name, value in settings.items() if group == "model" or name not in free_names}
    for name in ("weights", "init_from"):
        if typed.get("model", {}).get(name) is not None:
            chosen["model"][name] = None
    return chosen


def check_seed(checkpoint: Mapping[str, Any], typed: Any, path: str) -> int | None:
    """Find the seed that a resumed run has to go on with.

    Args:
        checkpoint: A Lightning checkpoint.
        typed: The seed that the user gave, or None.
        path: The checkpoint's path, for the message.

    Returns:
        The seed of the run that wrote the checkpoint, None if it does not tell.

    Raises:
        InputError: If the user gave another seed.
    """
    stored: int | None = checkpoint.get("CIFAR10DataModule", {}).get("seed")
    if stored is not None and typed is not None and typed != stored:
        raise expected(f"`--seed_everything` to be {stored} as in `{path}`", typed, _hint("fit"))
    return stored


def _hint(command: str) -> str:
    if command == "fit":
        return "`--ckpt_path` goes on with a run as it was; to start anew from its weights, give `--model.init_from`"
    return "leave the option out: the checkpoint knows how its model was built"


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat
