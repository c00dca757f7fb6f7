"""Check values from the YAML file of a plan."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from lit_prune.errors import expected


def check_keys(content: Mapping[str, Any], cls: type, where: str) -> None:
    """Raise an `InputError` if a mapping has a key that is not a field of the dataclass `cls`."""
    known = [field.name for field in fields(cls)]
    if unknown := [key for key in content if key not in known]:
        raise expected(f"only the keys {', '.join(known)} {where}", f"`{unknown[0]}`", "check the spelling")


def check_bool(content: Mapping[str, Any], key: str, where: str) -> None:
    """Raise an `InputError` if the value under a key is not a boolean; the key may be missing."""
    if not isinstance(content.get(key, False), bool):
        raise expected(f"`{key}` {where} to be true or false", content[key], "choose one of these")


def get_list(content: Mapping[str, Any], key: str, where: str) -> list[Any]:
    """Return the list under a key; empty if the key is missing. Raise an `InputError` for any other type."""
    value = content.get(key)
    if not isinstance(value, list | tuple | None):
        raise expected(f"`{key}` {where} to be a list", value, "begin each item with `-`")
    return list(value or [])


def get_mapping(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the mapping under a key; empty if the key is missing. Raise an `InputError` for any other type."""
    value = content.get(key)
    if not isinstance(value, dict | None):
        raise expected(f"`{key}` {where} to be a mapping", value, "write `name: value`")
    return dict(value or {})
