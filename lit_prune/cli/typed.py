"""What was typed, as a message shows it again."""

from collections.abc import Iterator, Sequence

import yaml

__all__ = ["last_typed", "typed_value"]


def last_typed(key: str, argv: Sequence[str]) -> str | None:
    """Find the value that was typed for an option, given without its dashes; None if there is none."""
    return next(_typed(key, argv), None)


def typed_value(key: str, parsed: str, argv: Sequence[str]) -> str:
    """Find what was typed for an option in the words, from what a parser made of it.

    Args:
        key: The option, without its dashes.
        parsed: The beginning of what the parser says that it got, as `repr` or `str` shows it.
        argv: The words that were parsed. The value may also come from a file.

    Returns:
        What was typed; `parsed` if nothing was that comes to it.
    """
    return next((value for value in _typed(key, argv) if _comes_to(value, parsed)), parsed)


def _typed(key: str, argv: Sequence[str]) -> Iterator[str]:
    """The values that were typed for an option, the last one first."""
    for word, after in reversed([*zip(argv, [*argv[1:], ""], strict=True)]):
        name, given, value = word.partition("=")
        if name.startswith("--") and name[2:].rstrip("+").replace(".init_args.", ".") == key:
            yield value if given else after


def _comes_to(value: str, parsed: str) -> bool:
    if value.startswith(parsed) or value.lower() == parsed.lower():
        return True
    try:
        return str(yaml.safe_load(value)) == parsed or float(value) == float(parsed)
    except (ValueError, RecursionError, yaml.YAMLError):
        return False
