"""Refuse checkpoints that would make the command line run code, or read or delete files of the user.

Reading the tensors of a checkpoint runs no code. But its settings become arguments of classes, and an argument
can name a class to import or a file to read. The states of its callbacks name files that Lightning deletes later.
SECURITY.md states the rules for settings and states.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from lit_prune.errors import InputError, expected, shorten

# settings that the group "run" may hold, and their types; any other name would be taken as an option of the command
_RUN = {"seed_everything": int | None, "name": str | None}
# the arguments of `LitResNet18` that take a class
BUILT = ("optimizer", "lr_scheduler")
# the keys by which jsonargparse recognizes a class in the value of an argument
_OF_CLASSES = {"class_path", "init_args", "dict_kwargs"}
_DEPTH, _VALUES = 20, 10_000  # limits of a group of settings: levels of nesting, number of values
# modules from which an optimizer or scheduler may come; those called `cli` define Lightning's `ReduceLROnPlateau`
_MODULES = re.compile(r"torch\.optim(\.\w+)?|lightning\.pytorch\.cli|pytorch_lightning\.cli", re.ASCII)
# a harmless text: with only these characters it cannot be a class path, a YAML collection, or a path to another folder
_WORD = re.compile(r"(\w[\w+-]{0,99})?", re.ASCII)


def check_callback_states(states: Mapping[str, Any], path: str | Path) -> None:
    """Check that no path in the states of callbacks is a URL or has `..` after a folder name.

    Args:
        states: States of the callbacks, as under `callbacks` in a checkpoint.
        path: Path of the checkpoint, for the message.

    Raises:
        InputError: If a path is a URL or has such a `..`.
    """
    for text in _texts(states):
        if _escapes(text):
            raise expected(
                f"states of callbacks in `{path}` without URLs, and without `..` after a folder name",
                f"{shorten(ascii(text))}, which is unsafe",
                "resuming from the file could delete other files; use `--model.init_from` to load only the weights",
            )


def check_stored_settings(stored: Mapping[str, Any], given: Mapping[str, Any], path: str | Path) -> None:
    """Check the settings in a checkpoint before anything is built from them.

    Two kinds of text are always allowed: names of optimizers and schedulers of `torch.optim`, and texts that the user
    gives in the same command. In an argument that could take a class, every other text must be a single word (`_WORD`)
    that is not the path of an existing file, unless the class that the user named declares the argument as `str`.

    Args:
        stored: Settings in the checkpoint, by group.
        given: Settings that the user gives by options, configurations and environment variables, by group.
        path: Path of the checkpoint, for the message.

    Raises:
        InputError: If the settings are malformed, or a text could name a file, or a class that is not allowed.
    """
    check_settings_structure(stored, path)
    known = {text for text in _texts(given) if text}
    for group in ("model", "data"):
        settings, own = stored.get(group, {}), given.get(group) or {}
        chosen = own if isinstance(own, str) else own.get("class_path")
        # a custom class can take a class, or a function, in any of its arguments
        foreign = chosen is not None or "class_path" in settings
        plain = {f"{group}.{inner}{name}" for name in _text_arguments(chosen) for inner in ("", "init_args.")}
        for name, value in settings.items():
            strict = foreign or (group == "model" and name in BUILT)
            for where, text in _risks(value, f"{group}.{name}", strict):
                if text not in known and not _is_of_torch(text) and where not in plain:
                    raise expected(
                        f"settings in `{path}` that name no files, and no classes except those of torch.optim",
                        f"`{shorten(ascii(where)[1:-1])}` {shorten(ascii(text))}, which is unsafe",
                        "this setting could run code; if you trust the checkpoint, pass the `config.yaml` of its run "
                        "as `--config` to `fit`, `test` or `predict`, and only its `state_dict` to other commands",
                    )


def malformed(path: str | Path, where: Any) -> InputError:
    """Return the error for a checkpoint whose entry `where` has an invalid form."""
    name = shorten(ascii(where)[1:-1]) if isinstance(where, str) else type(where).__name__
    return expected(
        f"valid entries in the checkpoint `{path}`",
        f"the invalid `{name}`",
        "the file may have been modified; use another checkpoint of the run",
    )


def check_settings_structure(stored: Any, path: str | Path) -> None:
    """Check that settings have only the groups "model", "data" and "run", valid names, and limited size and depth.

    Raises:
        InputError: If the settings violate one of these rules.
    """
    if not isinstance(stored, Mapping):
        raise malformed(path, "settings")
    for group, settings in stored.items():
        if group not in ("model", "data", "run") or not isinstance(settings, Mapping) or not _is_bounded(settings):
            raise malformed(path, group)
        for name in settings:
            # jsonargparse reads a dot in a name as a nested setting, and "+" as an addition to a list
            if not isinstance(name, str) or not name.isidentifier():
                raise malformed(path, f"{group}.{name}" if isinstance(name, str) else group)
    for name, value in stored.get("run", {}).items():
        if name not in _RUN or not isinstance(value, _RUN[name]):
            raise malformed(path, f"run.{name}")


def _is_bounded(settings: Any) -> bool:
    """Whether nested settings respect `_DEPTH` and `_VALUES`, and all their keys are strings or integers."""
    waiting, seen = [(settings, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        seen += 1
        if depth > _DEPTH or seen > _VALUES:
            return False
        if isinstance(value, Mapping) and not all(isinstance(name, str | int) for name in value):
            return False
        waiting += [(item, depth + 1) for item in _items(value)]
    return True


def _risks(value: Any, where: str, strict: bool) -> Iterator[tuple[str, str]]:
    """Yield (place in the settings, text) for each text that could name a class or a file.

    `strict` tells whether the argument at `where` could take a class. If not, only a `class_path` inside it counts.
    """
    if where.endswith(".class_path"):
        yield where, str(value)
    elif isinstance(value, Mapping):
        # the arguments of a class can take classes too
        strict = strict or any("class_path" in str(name).split(".") for name in value)
        for name, item in value.items():
            yield from _risks(item, f"{where}.{name}", strict)
            yield from _risks(name, f"{where}.{name!a}", strict)
    elif isinstance(value, str):
        if strict and (not _WORD.fullmatch(value) or (value and Path(value).exists())):
            yield where, value
    else:
        for number, item in enumerate(_items(value)):
            yield from _risks(item, f"{where}.{number}", strict)


def _text_arguments(class_path: Any) -> set[str]:
    """Names of the arguments that an imported class declares as `str`: the parser never builds a class from these."""
    module, _, name = str(class_path).rpartition(".")
    try:
        hints = get_type_hints(getattr(sys.modules[module], name).__init__)
    except Exception:  # not imported, not a class, or hints that cannot be resolved
        return set()
    return {argument for argument, hint in hints.items() if hint in (str, str | None)} - _OF_CLASSES


def _is_of_torch(name: str) -> bool:
    module, _, attribute = name.rpartition(".")
    # look only at modules that are already imported: importing one to inspect it would already run its code
    found = getattr(sys.modules.get(module), attribute, None) if _MODULES.fullmatch(module) else None
    return (
        isinstance(found, type)
        and issubclass(found, Optimizer | LRScheduler)
        and _MODULES.fullmatch(found.__module__) is not None
    )


def _items(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return [*value.keys(), *value.values()]
    return value if isinstance(value, list | tuple | set | frozenset) else ()


def _texts(values: Any) -> Iterator[str]:
    """All texts in nested values, including keys. No container is visited twice, since one can contain itself."""
    waiting, seen = [values], set()
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif id(value) not in seen and (items := _items(value)):
            seen.add(id(value))
            waiting += items


def _escapes(text: str) -> bool:
    """Whether a text is a URL, or a path with `..` after a folder name; `..` at the start is allowed."""
    parts = re.split(r"[/\\]", text)
    leading = next((number for number, part in enumerate(parts) if part != ".."), len(parts))
    return "://" in text or ".." in parts[leading:]
