"""Plans as YAML files: those that ship, your own, and plans that change another one."""

from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.nested import merge
from lit_prune.files.yaml import load_yaml
from lit_prune.study.plan.plan import Plan, keep, select
from lit_prune.study.plan.validation import read_plan
from lit_prune.study.plan.values import get_list, get_mapping

_FOLDER = Path(__file__).parents[2] / "configs" / "study"


def shipped_plans() -> dict[str, Path]:
    """List the plans that ship with the package: name to YAML file."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_plan(source: str | Path) -> Plan:
    """Load a plan from a YAML file.

    Args:
        source: Path of a YAML file, or name of a plan that ships. A plan with `base` lists changes to another plan:
            `settings` and `groups` are merged, experiments and claims with the same name are replaced, and `only`
            lists globs of the experiments to keep, with their ancestors.

    Raises:
        InputError: If there is no such plan, or it cannot be used.
    """
    content = _with_base(_find(source))
    only = get_list(content, "only", f"in `{source}`")
    plan = read_plan({key: value for key, value in content.items() if key != "only"}, str(source))
    return keep(plan, select(plan, only, "`only`")) if only else plan


def read_mapping(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. Messages name what it should hold, and hint at what to do.

    Raises:
        InputError: If the file cannot be read, breaks the limits of `load_yaml`, or holds anything else.
    """
    try:
        content = load_yaml(path)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise expected(f"`{path}` to be a readable YAML file", " ".join(str(error).split()), "check it") from error
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise expected(f"{what} in `{path}`", found, hint)
    return content


def _with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a plan and lay it over its base."""
    if path in seen:
        raise expected("plans without a cycle of `base`", f"`{path}`, which leads to itself", "remove one `base`")
    content = read_mapping(path, "a plan (`experiments: [...]`)", "see the plans that ship")
    content.setdefault("name", path.stem)  # not the base's name: they would share a folder
    if (base := content.pop("base", None)) is None:
        return content
    below = _with_base(_find_base(str(base), path), (*seen, path))
    of_base, own = f"in `{base}`", f"in `{path}`"
    for key in ("settings", "groups"):
        content[key] = merge(get_mapping(below, key, of_base), get_mapping(content, key, own))
    for key, name in (("experiments", "name"), ("claims", "said")):
        content[key] = _replace(get_list(below, key, of_base), get_list(content, key, own), name)
    return below | content


def _find(source: str | Path) -> Path:
    """Find a plan by name or path; a name that ships comes first, whatever files are in this folder."""
    if str(source) in shipped_plans():
        return shipped_plans()[str(source)]
    if Path(source).is_file():
        return Path(source).resolve()
    raise _not_found(source)


def _find_base(base: str, path: Path) -> Path:
    """Find the base of a plan: a file inside the plan's folder, relative to it, or a plan that ships."""
    folder = path.parent.resolve()
    try:
        file = (folder / base).resolve()
        inside = file.is_relative_to(folder)
        if inside and file.is_file():
            return file
    except (OSError, ValueError):  # not a possible file name
        raise _not_found(base) from None
    if base in shipped_plans():
        return shipped_plans()[base]
    if inside:
        raise _not_found(base)
    raise expected(f"`base` in `{path}` to stay in its folder", f"`{shorten(base)}`", "copy that plan into the folder")


def _not_found(source: str | Path) -> InputError:
    hint = f"these plans ship: {', '.join(shipped_plans())}"
    return expected("a YAML file or the name of a plan that ships", f"`{shorten(str(source))}`", hint)


def _replace(below: list[Any], own: list[Any], key: str) -> list[Any]:
    """Return the items of both lists; an item of the second replaces the one of the first that has the same key."""
    names = [item.get(key) if isinstance(item, dict) else None for item in below]
    result = list(below)
    for item in own:
        name = item.get(key) if isinstance(item, dict) else None
        if name is not None and name in names:
            result[names.index(name)] = item
        else:
            result.append(item)
    return result
