"""Nested settings: by dotted names, and laid over one another."""

from collections.abc import Mapping
from typing import Any

__all__ = ["flatten", "merge"]

_OF_CLASSES = {"class_path", "init_args", "dict_kwargs"}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name what is nested by dots: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay settings over others.

    Args:
        below: Nested settings.
        above: What changes. Mappings are merged, except that another `class_path` replaces all of a class's arguments.
            As in a Lightning CLI, a key that ends in `+` adds to the list that stands there, a class may be given by
            its name alone, and its arguments without `init_args` around them.

    Returns:
        New settings; neither argument is changed.
    """
    result: dict[str, Any] = {}
    # what is below may add too, to nothing: left as it is, its addition would stand beside that of another
    for key, value in [*below.items(), *above.items()]:
        if str(key).endswith("+"):
            result[key[:-1]] = [*_listed(result.get(key[:-1])), *_listed(value)]
        else:
            result[key] = _laid_over(result.get(key), value) if isinstance(value, Mapping) else value
    return result


def _laid_over(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(old, str) and "class_path" not in new:
        old = {"class_path": old}
    if not isinstance(old, Mapping) or ("class_path" in new and new["class_path"] != old.get("class_path")):
        return merge({}, new)
    if "class_path" in old and new and not new.keys() & _OF_CLASSES:
        new = {"init_args": new}
    return merge(old, new)


def _listed(value: Any) -> list[Any]:
    """A list; a Lightning CLI takes one callback without a list around it."""
    return [] if value is None else value if isinstance(value, list) else [value]
