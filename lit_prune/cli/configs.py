"""Find a configuration by its path or its name, as in `--config quick`, and read it."""

from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import InputError, closest_hint, expected
from lit_prune.files.yaml import describe_fault, load_yaml

_FOLDER = Path(__file__).parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Map the names of the shipped configurations to their YAML files."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_config(value: str) -> str:
    """Return the path of a configuration that is given by its path or its name. A file takes precedence over a name.

    Raises:
        InputError: If `value` is neither a file nor the name of a shipped configuration.
    """
    if Path(value).is_file():
        return value
    shipped = shipped_configs()
    if value in shipped:
        return str(shipped[value])
    hint = closest_hint(value, shipped, f"shipped configurations are {', '.join(shipped)}", "--config ")
    raise expected("`--config` to be a YAML file or a shipped configuration", f"`{value}`", hint)


def load_config(path: str) -> Any:
    """Load the YAML file of a configuration as plain values.

    Raises:
        InputError: If the file cannot be read, is not YAML, or exceeds the limits of `load_yaml`.
    """
    try:
        return load_yaml(path)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that does not exist
        found = f"`{path}` ({describe_fault(error)})"
        raise expected("`--config` to be a readable YAML file", found, "check the file") from error
