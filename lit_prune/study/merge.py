"""Settings over settings."""

from collections.abc import Mapping
from typing import Any

__all__ = ["merged"]


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others.

    Args:
        below: Nested settings.
        above: What changes. Mappings are merged, except that another `class_path` replaces all of a class's arguments;
            a key that ends in `+` adds to the list that stands there, as in configurations of a Lightning CLI.

    Returns:
        New settings; neither argument is changed.
    """
    result: dict[str, Any] = {}
    # what is below may add too, to nothing: left as it is, its addition would stand beside that of another
    for key, value in [*below.items(), *above.items()]:
        if str(key).endswith("+"):
            result[key[:-1]] = [*_listed(result.get(key[:-1])), *_listed(value)]
        elif (
            isinstance(value, Mapping) and isinstance(old := result.get(key), Mapping) and not _other_class(old, value)
        ):
            result[key] = merged(old, value)
        else:
            result[key] = merged({}, value) if isinstance(value, Mapping) else value
    return result


def _other_class(old: Mapping[str, Any], new: Mapping[str, Any]) -> bool:
    return "class_path" in new and new["class_path"] != old.get("class_path")


def _listed(value: Any) -> list[Any]:
    """A list; a Lightning CLI takes one callback without a list around it."""
    return [] if value is None else value if isinstance(value, list) else [value]
