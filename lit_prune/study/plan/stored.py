"""The file `plan.yaml` in a study's folder, with the plan that all runs in the folder follow."""

import os
from pathlib import Path

import yaml

from lit_prune.errors import expected
from lit_prune.files.atomic import write_text
from lit_prune.files.nested import flatten
from lit_prune.study.plan.loading import read_mapping
from lit_prune.study.plan.plan import Plan
from lit_prune.study.plan.validation import read_plan

PLAN = "plan.yaml"


def stored_plan(out: Path) -> Plan:
    """Read the plan that is stored in a study's folder.

    Raises:
        InputError: If there is no valid plan, or a symbolic link points out of the folder.
    """
    check_links(out)
    if not (path := out / PLAN).is_file():
        what = "is not a folder" if not out.is_dir() else f"holds no {PLAN}" if any(out.iterdir()) else "is empty"
        raise expected("the folder of a study", f"`{out}`, which {what}", "give a folder that `lit-prune study` wrote")
    return read_plan(read_mapping(path, "a plan", "check the folder"), str(path))


def store_plan(plan: Plan, out: Path) -> Plan:
    """Store a plan in a folder, or add its seeds to the plan there; return the stored plan, with all its seeds.

    Raises:
        InputError: If `check_folder` raises it.
        OSError: If the folder cannot be written.
    """
    known = check_folder(plan, out)
    if known is not None:
        plan = plan.with_seeds(sorted({*known.seeds, *plan.seeds}))
        if plan == known:
            return plan
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / PLAN, yaml.safe_dump(plan.as_dict(), sort_keys=False, allow_unicode=True))
    return plan


def check_folder(plan: Plan, out: Path) -> Plan | None:
    """Check that a plan can run in a folder, and return the plan stored there; None if the folder is new or empty.

    Raises:
        InputError: If the folder holds other files, a plan with other settings, or a symbolic link out of it.
    """
    if (file := next((path for path in (out, *out.parents) if path.is_file()), None)) is not None:
        raise expected("`--out` to be a folder", f"the file `{file}`", "give another path")
    check_links(out)
    if (out / PLAN).is_file():
        known = stored_plan(out)
        _compare(known, plan, out)
        return known
    if out.is_dir() and any(not item.name.startswith(".") for item in out.iterdir()):
        raise expected(f"`{out}` to be new, empty or this study's folder", "other files", "give another `--out`")
    return None


def check_links(out: Path) -> None:
    """Check that no symbolic link in a study's folder points out of it, since runs write and remove files there.

    The folder may itself be a link, and need not exist.

    Raises:
        InputError: If such a link exists at any depth.
    """
    whole = out.resolve()
    for folder, folders, files in os.walk(whole):
        for path in sorted(Path(folder, name) for name in [*folders, *files]):
            if path.is_symlink() and not (target := Path(os.path.realpath(path))).is_relative_to(whole):
                raise expected(
                    f"no link in `{out}` that leads out of it",
                    f"`{path.relative_to(whole)}`, which leads to `{target}`",
                    "remove the link; to keep a study elsewhere, give `--out`",
                )


def _compare(known: Plan, new: Plan, out: Path) -> None:
    """Raise an `InputError` that names the first setting on which results depend and in which two plans differ."""
    old, now = flatten(known.identity()), flatten(new.identity())
    for name in sorted(old.keys() | now.keys()):
        if old.get(name) != now.get(name):
            before, after = (f"`{name}` {v[name]!r}" if name in v else f"no `{name}`" for v in (old, now))
            hint = "give another `--out`, or use the settings of the plan in the folder"
            raise expected(f"the plan of `{out}`, with {before}", after, hint)
