"""Load plans from YAML files: your own, and those that ship with lit-prune. A plan can extend another, its base."""

from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.nested import merge
from lit_prune.files.yaml import describe_fault, load_yaml
from lit_prune.study.plan.plan import Plan, keep, select
from lit_prune.study.plan.validation import read_plan
from lit_prune.study.plan.values import get_list, get_mapping

_FOLDER = Path(__file__).parents[2] / "configs" / "study"


def shipped_plans() -> dict[str, Path]:
    """Return the path of the YAML file of each plan that ships with lit-prune, by the name of the plan."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_plan(source: str | Path) -> Plan:
    """Load a plan from a YAML file.

    Args:
        source: Path of a YAML file, or name of a plan that ships with lit-prune. The key `base` in a plan names another
            plan to extend: `settings` and `groups` are merged into those of the base plan; experiments and claims are
            added to those of the base plan, or replace them if they have the same `name` or `said`. The key `only`
            lists globs: only experiments whose names match are kept, with their parents, parents of parents, and so on.

    Raises:
        InputError: If the plan does not exist or is invalid.
    """
    content = _with_base(_find(source))
    only = get_list(content, "only", f"in `{source}`")
    plan = read_plan({key: value for key, value in content.items() if key != "only"}, str(source))
    return keep(plan, select(plan, only, "`only`")) if only else plan


def read_mapping(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds a mapping. If it holds anything else, the error says that `what` was expected.

    Raises:
        InputError: If the file cannot be read, exceeds the limits of `load_yaml`, or does not hold a mapping.
    """
    try:
        content = load_yaml(path)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that does not exist
        raise expected(f"`{path}` to be a readable YAML file", describe_fault(error), "check the file") from error
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise expected(f"{what} in `{path}`", found, hint)
    return content


def _with_base(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a plan and merge it into its base plan, if it has one."""
    if path in seen:
        raise expected("plans without a cycle of `base`", f"`{path}`, which leads to itself", "remove one `base`")
    content = read_mapping(path, "a plan (`experiments: [...]`)", "see `lit_prune/configs/study` for examples")
    content.setdefault("name", path.stem)  # not the base's name, or both plans would use one folder
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
    """Find a plan by name or path. A plan that ships with lit-prune takes precedence over a file of the same name."""
    if str(source) in shipped_plans():
        return shipped_plans()[str(source)]
    if Path(source).is_file():
        return Path(source).resolve()
    raise _not_found(source)


def _find_base(base: str, path: Path) -> Path:
    """Find the base of a plan: a file in the plan's folder or a folder below, or else the shipped plan of that name."""
    folder = path.parent.resolve()
    try:
        file = (folder / base).resolve()
        inside = file.is_relative_to(folder)
        if inside and file.is_file():
            return file
    except (OSError, ValueError):  # `base` is not a possible file name
        raise _not_found(base) from None
    if base in shipped_plans():
        return shipped_plans()[base]
    if inside:
        raise _not_found(base)
    hint = "copy the base plan into that folder"
    raise expected(f"`base` in `{path}` to name a file in the same folder", f"`{shorten(base)}`", hint)


def _not_found(source: str | Path) -> InputError:
    hint = f"the plans that ship with lit-prune are {', '.join(shipped_plans())}"
    return expected("a YAML file or the name of a plan that ships with lit-prune", f"`{shorten(str(source))}`", hint)


def _replace(below: list[Any], own: list[Any], key: str) -> list[Any]:
    """Append each item of `own` to `below`, or replace the item of `below` that has the same value of `key`."""
    names = [item.get(key) if isinstance(item, dict) else None for item in below]
    result = list(below)
    for item in own:
        name = item.get(key) if isinstance(item, dict) else None
        if name is not None and name in names:
            result[names.index(name)] = item
        else:
            result.append(item)
    return result
