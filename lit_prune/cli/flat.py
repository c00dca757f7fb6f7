"""Nested settings by dotted names."""

from collections.abc import Mapping
from typing import Any

__all__ = ["flat"]


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name what is nested by dots: `{"a": {"b": 1}}` becomes `{"a.b": 1}`."""
    leaves: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            leaves |= flat(value, f"{prefix}{name}.")
        else:
            leaves[prefix + name] = value
    return leaves
