"""What a checkpoint of a stranger may say: values, and no more.

Its tensors are loaded without executing it. But a checkpoint also holds the settings of its run, from which classes are
imported and called, and paths, of files that callbacks delete when they have written newer ones. Both are checked here.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_prune.errors import InputError, expected
from lit_prune.files.yaml import load_yaml_text

__all__ = ["check_checkpoint", "check_stored_settings"]

_KEY = "lit_prune"
_GROUPS = {"model": Mapping, "data": Mapping, "run": Mapping}
# what "run" may hold, and of which types; anything else would be taken for an option
_RUN = {"seed_everything": int | None, "name": str | None}
# the arguments of our model from which classes are made
_MADE = ("optimizer", "lr_scheduler")
_DEPTH, _VALUES = 20, 10_000
_MODULES = re.compile(r"torch\.optim(\.\w+)?|lightning\.pytorch\.cli", re.ASCII)  # the latter has one, of a scheduler
_SHOWN = 80


def check_checkpoint(checkpoint: Mapping[str, Any], path: str) -> None:
    """Check what of a checkpoint is used without being asked for.

    Args:
        checkpoint: As it was read.
        path: Where from, for the message.

    Raises:
        InputError: If settings are not where they belong, or the state of a callback names files that are not below
            the folder that the name begins with.
    """
    own = checkpoint.get(_KEY, {"settings": {}})
    if not isinstance(own, Mapping) or not isinstance(own.get("settings"), Mapping):
        raise _malformed(path, _KEY)
    for key in ("hyper_parameters", "datamodule_hyper_parameters", "callbacks"):
        if not isinstance(checkpoint.get(key, {}), Mapping):
            raise _malformed(path, key)
    for text in _texts(checkpoint.get("callbacks", {})):
        if _escapes(text):
            raise expected(
                f"states of callbacks in `{path}` to name files of their own folder",
                f"{ascii(text)[:_SHOWN]}, which is unsafe",
                "going on with it could delete files elsewhere; to start anew from its weights, give "
                "`--model.init_from`",
            )


def check_stored_settings(stored: Mapping[str, Any], typed: Mapping[str, Any], path: str) -> None:
    """Check the settings in a checkpoint before classes are made from them.

    They may name optimizers and schedulers of `torch.optim`, and whatever the user names in this very command.

    Args:
        stored: The settings, by group.
        typed: What the user gave, by group.
        path: Where the checkpoint is, for the message.

    Raises:
        InputError: If they name anything else that would be imported or read, or are no settings at all.
    """
    _check_shape(stored, path)
    known = {text for text in _texts(typed) if text}
    for group in ("model", "data"):
        settings, given = stored.get(group, {}), typed.get(group)
        # somebody else's class may take a class, or a function, in any of its arguments
        foreign = "class_path" in settings or isinstance(given, str) or "class_path" in (given or {})
        for name, value in settings.items():
            strict = foreign or (group == "model" and name in _MADE)
            for where, text in _named(value, f"{group}.{name}", strict, name == "class_path"):
                if text not in known and not _is_of_torch(text):
                    raise expected(
                        f"settings in `{path}` that name nothing but classes of torch.optim",
                        f"`{where}` {ascii(text)[:_SHOWN]}, which is unsafe",
                        "going on with it could run code; if it is yours, give the run's own `--config` too",
                    )


def _check_shape(stored: Any, path: str) -> None:
    if not isinstance(stored, Mapping):
        raise _malformed(path, "settings")
    for group, settings in stored.items():
        if group not in _GROUPS or not isinstance(settings, Mapping):
            raise _malformed(path, group)
        if not _is_plain(settings):
            raise _malformed(path, group)
    for name, value in stored.get("run", {}).items():
        if name not in _RUN or not isinstance(value, _RUN[name]):
            raise _malformed(path, f"run.{name}")


def _is_plain(settings: Any) -> bool:
    """Whether these are values by name, of a bearable number and depth: a pickle can contain itself."""
    waiting, seen = [(settings, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > _DEPTH or seen > _VALUES:
            return False
        if isinstance(value, Mapping):
            if not all(isinstance(name, str) for name in value):
                return False
            waiting += [(item, depth + 1) for item in value.values()]
        elif isinstance(value, list | tuple):
            waiting += [(item, depth + 1) for item in value]
    return True


def _named(value: Any, where: str, strict: bool, is_class: bool = False) -> Iterator[tuple[str, str]]:
    """List what of a setting would be imported or read, each with its name."""
    if isinstance(value, Mapping):
        # the arguments of a class are its own, whatever ours take
        strict = strict or "class_path" in value
        for name, item in value.items():
            yield from _named(item, f"{where}.{name}", strict, name == "class_path")
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield from _named(item, f"{where}.{number}", strict)
    elif is_class:
        yield where, str(value)
    elif isinstance(value, str) and strict:
        if _can_be_imported(value) or _is_file(value):
            yield where, value
        elif isinstance(inner := _as_yaml(value), Mapping | list):  # the parser reads text as YAML
            yield from _named(inner, where, strict)
        elif isinstance(inner, InputError):
            yield where, value


def _is_of_torch(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    # what is imported already; a name is not reason enough to import another
    found = getattr(sys.modules.get(module), attribute, None) if _MODULES.fullmatch(module) else None
    return (
        isinstance(found, type)
        and issubclass(found, Optimizer | LRScheduler)
        and _MODULES.fullmatch(found.__module__) is not None
    )


def _can_be_imported(text: str) -> bool:
    first, dot, _ = text.partition(".")
    if not dot or not all(part.isidentifier() for part in text.split(".")):
        return False
    try:
        return first in sys.modules or find_spec(first) is not None
    except (ImportError, ValueError):
        return True


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # longer than a path can be, or with a null in it
        return False


def _as_yaml(text: str) -> Any:
    try:
        return load_yaml_text(text, "a setting")
    except InputError as error:
        return error
    except (ValueError, yaml.YAMLError):
        return None


def _texts(values: Any) -> Iterator[str]:
    """All text in nested values, of names too; each container once, for a pickle can contain itself."""
    waiting, seen = [values], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, Mapping | list | tuple) and id(value) not in seen:
            seen.add(id(value))
            items: Iterable[Any] = [*value.keys(), *value.values()] if isinstance(value, Mapping) else value
            waiting += items


def _escapes(text: str) -> bool:
    """Whether text can be the path of something that is not below the folder that it begins with."""
    parts = re.split(r"[/\\]", text)
    leading = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return "://" in text or ".." in parts[leading:]


def _malformed(path: str, where: Any) -> InputError:
    return expected(
        f"the settings in `{path}` to be values by name",
        f"something else for `{ascii(where)[1:-1][:_SHOWN] if isinstance(where, str) else type(where).__name__}`",
        "the file was changed; take another checkpoint of this run",
    )
