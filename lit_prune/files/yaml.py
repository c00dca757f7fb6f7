"""Safe loading of untrusted YAML, with limits on size, depth and aliases.

`yaml.safe_load` builds only plain values. But with aliases, a few lines can expand to billions of values, and a value
can contain itself; and values can be nested too deep for Python. So the parser's events are counted before any value is
built. An alias is a single event, so the size of the file limits the number of events.
"""

from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import expected, one_line, shorten

_MEGABYTES, _VALUES, _DEPTH = 10, 100_000, 100  # limits: size of the file, number of values, levels of nesting
_PYTHON = "tag:yaml.org,2002:python"
# if PyYAML was built with libyaml, its parser in C produces the same events in a tenth of the time
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def describe_fault(error: Exception) -> str:
    """Describe an error of `load_yaml` in one line, with the place in the YAML if it is known."""
    mark = getattr(error, "problem_mark", None)
    if mark is None:
        return one_line(error)
    return f"line {mark.line + 1}, column {mark.column + 1}: {getattr(error, 'problem', None) or 'wrong syntax'}"


def load_yaml(path: str | Path) -> Any:
    """Load a YAML file as plain values.

    Raises:
        InputError: If the file is larger than 10 MB, has more than 100,000 values once its aliases are expanded, is
            nested more than 100 levels deep, has a value that contains itself, has tags that build Python objects, or
            has the same key twice in one mapping.
        OSError: If the file cannot be read.
        ValueError: If the file is not UTF-8, or contains an impossible date.
        yaml.YAMLError: If the file is not YAML, or has unknown tags.
    """
    return load_yaml_text(_read(path), f"`{path}`")


def load_yaml_text(text: str, source: str) -> Any:
    """Load YAML text as plain values, with the limits of `load_yaml` on its content; an `InputError` names `source`."""
    _check(text, source)
    _check_keys(yaml.compose(text, Loader=_LOADER), source, set())
    return yaml.safe_load(text)


def _check_keys(node: Any, source: str, checked: set[int]) -> None:
    """Raise an `InputError` if a mapping has the same key twice, of which YAML would drop the first."""
    if id(node) in checked or not isinstance(node, yaml.CollectionNode):
        return
    checked.add(id(node))
    keys = set()
    for item in node.value:
        key, value = item if isinstance(node, yaml.MappingNode) else (None, item)
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in keys:
                found = f"`{shorten(key.value)}` twice (line {key.start_mark.line + 1})"
                raise expected(f"different keys in each mapping of {source}", found, "remove or rename one of them")
            keys.add((key.tag, key.value))
        _check_keys(value, source, checked)


def _read(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        content = file.read(_MEGABYTES * 2**20 + 1)
    if len(content) > _MEGABYTES * 2**20:
        raise expected(f"YAML of at most {_MEGABYTES} MB in `{path}`", "more", "check whether this is the right file")
    return content.decode("utf-8")


def _check(text: str, source: str) -> None:
    """Raise an `InputError` for dangerous YAML; count the values in each collection as if its aliases were expanded."""
    sizes: dict[str | None, int] = {}  # number of values that each anchor stands for; 0 while its collection is open
    collections: list[tuple[str | None, int]] = [(None, 0)]  # anchor and size of the document and each open collection
    for event in yaml.parse(text, Loader=_LOADER):
        anchor = getattr(event, "anchor", None)
        if (tag := getattr(event, "tag", None) or "").startswith(_PYTHON):
            found = f"the tag `!!python{shorten(ascii(tag.removeprefix(_PYTHON))[1:-1])}`, which is unsafe"
            raise expected(f"plain values in {source}", found, "the tag would build a Python object; remove it")
        if isinstance(event, yaml.CollectionStartEvent):
            sizes[anchor] = 0
            collections.append((anchor, 1))
            if len(collections) > _DEPTH + 1:
                raise expected(f"values in {source} nested at most {_DEPTH} levels deep", "more", "nest fewer levels")
            continue
        if isinstance(event, yaml.CollectionEndEvent):
            anchor, size = collections.pop()
        elif isinstance(event, yaml.AliasEvent):
            anchor, size = None, sizes.get(anchor, 1)
            if size == 0:
                found = f"the alias `*{event.anchor}` inside the value of `&{event.anchor}`"
                raise expected(f"values in {source} that do not contain themselves", found, "remove the alias")
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
        else:
            sizes = {}  # an anchor is valid only in its YAML document
            continue
        sizes[anchor] = size
        collections[-1] = collections[-1][0], collections[-1][1] + size
        if collections[-1][1] > _VALUES:
            hint = "write fewer values or use fewer aliases"
            raise expected(f"at most {_VALUES:,} values in {source} once its aliases are expanded", "more", hint)
