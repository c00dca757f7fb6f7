"""Find out whether a command uses a custom model or data module, whose arguments become options of the command."""

import os
import sys
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import yaml

from lit_prune.cli.configs import find_config
from lit_prune.errors import InputError
from lit_prune.files.yaml import load_yaml


def find_custom_classes(argv: Sequence[str]) -> tuple[bool, bool]:
    """Find out whether the options or the configurations name a custom model class or a custom data class.

    If they do, add the current folder to `sys.path`, as `python -m` does, so that the class can be imported.

    Args:
        argv: The command and its options.

    Returns:
        Two booleans: whether a model class is named, and whether a data class is named.

    Raises:
        InputError: If a configuration does not exist, or is unsafe to load.
    """
    configs = [_read(value) for value in _values(argv)]
    model, data = (_is_chosen(group, argv, configs) for group in ("model", "data"))
    if (model or data) and os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return model, data


def _is_chosen(group: str, argv: Sequence[str], configs: Sequence[Any]) -> bool:
    options = (f"--{group}", f"--{group}.class_path")
    if any(word.split("=")[0] in options for word in argv):
        return True
    groups = [config.get(group) for config in configs if isinstance(config, dict)]
    return any(isinstance(value, str) or (isinstance(value, dict) and "class_path" in value) for value in groups)


def _values(argv: Sequence[str]) -> list[str]:
    """Return the values of `--config`, and the value of its environment variable."""
    values = [after for word, after in pairwise(argv) if word in ("-c", "--config")]
    values += [word.split("=", 1)[1] for word in argv if word.startswith("--config=")]
    from_environment = os.environ.get(f"LIT_PRUNE_{argv[0].upper()}__CONFIG") if argv else None
    return values + ([from_environment] if from_environment else [])


def _read(value: str) -> Any:
    """Read a configuration; return None if that fails, since the parser will read it again and report the error."""
    path = find_config(value)
    try:
        return load_yaml(path)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError):
        return None
