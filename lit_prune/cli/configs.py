"""The configurations that ship, named without a path: `--config quick`."""

import difflib
from pathlib import Path

from lit_prune.errors import expected

__all__ = ["find_config", "shipped_configs"]

_FOLDER = Path(__file__).parents[1] / "configs"


def shipped_configs() -> dict[str, Path]:
    """List the configurations inside the package.

    Returns:
        From name ("quick") to the path of its YAML file, sorted by name.
    """
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def find_config(value: str) -> str:
    """Turn what the user gave to `--config` into a path.

    A file of that path comes first, so that a shipped name never hides a user's own file.

    Args:
        value: A path, or the name of a shipped configuration.

    Returns:
        The path of a file that exists.

    Raises:
        InputError: If there is neither such a file nor such a name.
    """
    if Path(value).is_file():
        return value
    shipped = shipped_configs()
    if value in shipped:
        return str(shipped[value])
    near = difflib.get_close_matches(value, shipped, n=1)
    hint = f"did you mean `--config {near[0]}`" if near else f"those that ship are {', '.join(shipped)}"
    raise expected("`--config` to name a YAML file or a shipped configuration", f"`{value}`", hint)
