"""The plan that a study's folder belongs to."""

import os
from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import expected
from lit_prune.files.atomic import write_text
from lit_prune.files.nested import flatten
from lit_prune.study.plan.plan import Plan, read_mapping, read_plan

__all__ = ["check_links", "known_plan", "store_plan", "stored_plan"]

_NAME = "plan.yaml"


def stored_plan(out: Path) -> Plan:
    """Read the plan of a study's folder.

    Raises:
        InputError: If there is none, or it cannot be read, or a link in the folder leads out of it.
    """
    check_links(out)
    path = out / _NAME
    if not path.is_file():
        what = "is not a folder" if not out.is_dir() else f"holds no {_NAME}" if any(out.iterdir()) else "is empty"
        hint = "give the folder that `lit-prune study` wrote"
        raise expected("the folder of a study", f"`{out}`, which {what}", hint)
    content = read_mapping(path, "a plan", "check the folder")
    return read_plan(content, str(path))


def store_plan(plan: Plan, out: Path) -> Plan:
    """Make a folder belong to a plan, or check that it does.

    Args:
        plan: What is to be run. Seeds may be new; what decides numbers may not.
        out: The study's folder.

    Returns:
        The plan with all seeds that the folder is for.

    Raises:
        InputError: If the folder holds something else, belongs to a plan that differs, or has a link out of it.
        OSError: If it cannot be written.
    """
    known = known_plan(plan, out)
    if known is not None:
        plan = plan.with_seeds(sorted({*known.seeds, *plan.seeds}))
        if plan == known:
            return plan
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / _NAME, yaml.safe_dump(plan.as_dict(), sort_keys=False, allow_unicode=True))
    return plan


def known_plan(plan: Plan, out: Path) -> Plan | None:
    """Check that a folder can become, or is, that of a plan, and write nothing.

    Args:
        plan: What is to be run.
        out: The study's folder.

    Returns:
        The plan that is stored there, if there is one.

    Raises:
        InputError: As `store_plan` does.
    """
    if (file := next((path for path in (out, *out.parents) if path.is_file()), None)) is not None:
        raise expected("`--out` to be a folder", f"the file `{file}`", "give another")
    check_links(out)
    if (out / _NAME).is_file():
        known = stored_plan(out)
        _compare(_numbers(known), _numbers(plan), out)
        return known
    if out.is_dir() and any(not item.name.startswith(".") for item in out.iterdir()):
        raise expected(
            f"a new or empty folder, or that of this study, at `{out}`", "other files", "give another `--out`"
        )
    return None


def _numbers(plan: Plan) -> dict[str, Any]:
    """What decides the numbers that come out, flat and by experiment."""
    content = plan.identity()
    content["experiments"] = {item["name"]: item for item in content["experiments"]}
    return flatten(content)


def _compare(known: dict[str, Any], new: dict[str, Any], out: Path) -> None:
    for name in sorted({*known, *new}):
        if known.get(name) != new.get(name):
            raise expected(
                f"the plan that made `{out}`, with {_say(name, known)}",
                _say(name, new),
                "give another `--out`, or the settings of then",
            )


def _say(name: str, values: dict[str, Any]) -> str:
    return f"`{name}` {values[name]!r}" if name in values else f"no `{name}`"


def check_links(out: Path) -> None:
    """Refuse a study's folder in which a link leads out of it: runs write there, and take away what is half-written.

    Args:
        out: The study's folder, which may be a link itself; it need not be there.

    Raises:
        InputError: If there is such a link, at any depth.
    """
    whole = out.resolve()
    for folder, folders, files in os.walk(whole):
        for name in sorted([*folders, *files]):
            path = Path(folder, name)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(whole):
                raise expected(
                    f"no link in `{out}` that leads out of this study",
                    f"`{path.relative_to(whole)}`, which leads to `{os.path.realpath(path)}`",
                    "take the link away; to keep a study elsewhere, give `--out`",
                )
