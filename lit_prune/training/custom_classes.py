"""Find the custom model class and data module class that a command uses, before its options are parsed."""

import os
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

from lit_prune.cli.configs import find_config, load_config
from lit_prune.errors import expected


def find_custom_classes(argv: Sequence[str]) -> tuple[str | None, str | None]:
    """Find the custom model class and the custom data class that the options or the configurations name.

    If there is one, add the current folder to `sys.path`, as `python -m` does, so that the class can be imported.

    Args:
        argv: The command and its options.

    Returns:
        Two class paths as given, that of the model and that of the data module; None for a default class.

    Raises:
        InputError: If an option names no class, or a configuration does not exist or is unsafe to load.
    """
    chosen: dict[str, str | None] = {"model": None, "data": None}
    given = os.environ.get(f"LIT_PRUNE_{argv[0].upper()}__CONFIG", "") if argv else ""
    for option, value in [("--config", given), *split_options(argv)]:
        config = load_config(find_config(value)) if option in ("-c", "--config") and value else None
        for group in chosen:
            if option in (f"--{group}", f"--{group}.class_path"):
                if value in ("null", "None"):
                    hint = "give module.Class, or leave the option out"
                    raise expected(f"`{option}` to name a class", f"`{value}`", hint)
                chosen[group] = value
            elif isinstance(config, dict) and (path := _class_path(config.get(group))) is not None:
                chosen[group] = path
    if any(path is not None for path in chosen.values()) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return chosen["model"], chosen["data"]


def split_options(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield a pair of option and value for each word of a command line, without parsing it.

    The value is the text after "=" or, without "=", the next word. Words that are values are yielded as options too,
    so look only for the names of known options.
    """
    for word, after in pairwise([*argv, ""]):
        option, equals, value = word.partition("=")
        yield option, value if equals else after


def _class_path(settings: Any) -> str | None:
    """Return the path of the class that the settings of a group choose; None if they choose no class."""
    if isinstance(settings, dict) and "class_path" in settings:
        return str(settings["class_path"])
    return settings if isinstance(settings, str) else None
