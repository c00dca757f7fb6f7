"""Nested settings: flatten them to dotted names, and merge them."""

from collections.abc import Mapping
from typing import Any

_OF_CLASSES = {"class_path", "init_args", "dict_kwargs"}


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested settings to dotted names: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flatten(value, f"{prefix}{name}.")
        else:
            leaves[f"{prefix}{name}"] = value
    return leaves


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge changes into settings, by the rules of a LightningCLI.

    Args:
        base: Nested settings.
        changes: Nested settings that override those of `base`. Mappings are merged, but a different `class_path`
            drops the arguments of the previous class. A key that ends in `+` appends to a list. The short forms of a
            LightningCLI are accepted: a class name for `{"class_path": ...}`, and arguments outside `init_args`.

    Returns:
        The merged settings; neither argument is modified.
    """
    result: dict[str, Any] = {}
    # resolve the "+" keys of `base` too; otherwise the result could hold both `name` and `name+` for one list
    for key, value in [*base.items(), *changes.items()]:
        if str(key).endswith("+"):
            result[key[:-1]] = [*_as_list(result.get(key[:-1])), *_as_list(value)]
        else:
            result[key] = _merge_mapping(result.get(key), value) if isinstance(value, Mapping) else value
    return result


def _merge_mapping(old: Any, new: Mapping[str, Any]) -> dict[str, Any]:
    if isinstance(old, str) and "class_path" not in new:
        old = {"class_path": old}
    if not isinstance(old, Mapping) or ("class_path" in new and new["class_path"] != old.get("class_path")):
        return merge({}, new)
    if "class_path" in old and new and not new.keys() & _OF_CLASSES:
        new = {"init_args": new}
    return merge(old, new)


def _as_list(value: Any) -> list[Any]:
    """Return a list; a LightningCLI also accepts a single item in place of a list."""
    return [] if value is None else value if isinstance(value, list) else [value]
