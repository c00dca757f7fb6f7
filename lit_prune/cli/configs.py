"""Find a configuration that ships with lit-prune by its name, as in `--config quick`."""

from pathlib import Path

from lit_prune.errors import closest_hint, expected

_FOLDER = Path(__file__).parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """Map the names of the shipped configurations to their YAML files."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_config(value: str) -> str:
    """Return the path of a configuration, from its path or its name; if `value` could be either, it is the path.

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
