"""YAML that somebody else wrote, read without executing it, and without being worn out by it.

`yaml.safe_load` makes plain values alone. But a few lines can stand for billions of values, which aliases repeat;
values can lie so deep that who walks through them ends with the interpreter; and a value can contain itself. So the
events of a file, of which there are no more than it has characters, are counted before anything is made of them.
"""

import contextlib
from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import expected

__all__ = ["check_yaml", "load_yaml", "load_yaml_text"]

_BYTES = 10 * 2**20
_VALUES = 100_000
_DEPTH = 100
_SHOWN = 80
_PYTHON = "tag:yaml.org,2002:python"
_SMALLER = "write down less, with fewer aliases"
# the parser in C where there is one; it makes the same events, in a tenth of the time
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def check_yaml(path: str | Path) -> None:
    """Refuse a file that would be a danger to who reads it as YAML; leave what is no YAML at all to others.

    Raises:
        InputError: If it is larger than 10 MB, stands for more than 100,000 values once its aliases are followed, is
            nested more than 100 deep, contains itself, or has tags that ask for objects of Python.
        OSError: If it cannot be read.
    """
    with contextlib.suppress(UnicodeDecodeError, yaml.YAMLError):
        _check(_read(path).decode("utf-8"), f"`{path}`")


def load_yaml(path: str | Path) -> Any:
    """Read a YAML file into plain values.

    Raises:
        InputError: As `check_yaml` does.
        OSError: If it cannot be read.
        ValueError: If it is not UTF-8, or names a date that there is not.
        yaml.YAMLError: If it is no YAML, or has tags of another program.
    """
    return load_yaml_text(_read(path).decode("utf-8"), f"`{path}`")


def load_yaml_text(text: str, source: str) -> Any:
    """Read YAML into plain values.

    Args:
        text: The YAML.
        source: Where it comes from, for messages.

    Raises:
        InputError: As `check_yaml` does.
        ValueError: If it names a date that there is not.
        yaml.YAMLError: If it is no YAML, or has tags of another program.
    """
    _check(text, source)
    return yaml.safe_load(text)


def _read(path: str | Path) -> bytes:
    with Path(path).open("rb") as file:
        content = file.read(_BYTES + 1)
    if len(content) > _BYTES:
        raise expected(
            f"YAML of at most {_BYTES // 2**20} MB in `{path}`", "more", "check whether it is the right file"
        )
    return content


def _check(text: str, source: str) -> None:
    """Add up what each value stands for, itself and all that is in it."""
    known: dict[str, int] = {}
    # of each collection that is open: its anchor, and what has been found in it
    open_: list[tuple[str | None, int]] = []
    for event in yaml.parse(text, Loader=_LOADER):
        if isinstance(event, yaml.DocumentStartEvent):
            known = {}  # as anchors do, at the end of a document
            continue
        if isinstance(event, yaml.AliasEvent):
            if any(anchor == event.anchor for anchor, _ in open_):
                raise expected(
                    f"values in {source} that end somewhere", f"`*{event.anchor}` inside itself", "take the alias away"
                )
            size, anchor = known.get(event.anchor, 1), None
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_.pop()
        elif isinstance(event, yaml.NodeEvent):
            if (event.tag or "").startswith(_PYTHON):
                tag = ascii(event.tag.removeprefix(_PYTHON))[1:-1][:_SHOWN]
                raise expected(
                    f"plain values in {source}",
                    f"the tag `!!python{tag}`, which is unsafe: it asks for an object of Python",
                    "take the tag away if you know who wrote it, or the file if you do not",
                )
            if isinstance(event, yaml.CollectionStartEvent):
                open_.append((event.anchor, 1))
                if len(open_) > _DEPTH:
                    raise expected(f"values in {source} nested at most {_DEPTH} deep", "more", _SMALLER)
                continue
            size, anchor = 1, event.anchor
        else:
            continue
        if anchor is not None:
            known[anchor] = size
        if open_:
            open_[-1] = open_[-1][0], open_[-1][1] + size
            size = open_[-1][1]
        if size > _VALUES:
            raise expected(f"at most {_VALUES} values in {source}", "more, with its aliases followed", _SMALLER)
