"""Read and write `plan.yaml`, the plan of all runs in a study's folder."""

import os
import re
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
        InputError: If there is no valid plan, or a symbolic link in the folder leads out of it.
    """
    check_links(out)
    if not (path := out / PLAN).is_file():
        what = "is not a folder" if not out.is_dir() else f"holds no {PLAN}" if any(out.iterdir()) else "is empty"
        raise expected("the folder of a study", f"`{out}`, which {what}", "give a folder that `lit-prune study` wrote")
    return read_plan(read_mapping(path, "a plan", "check the folder"), str(path))


def store_plan(plan: Plan, out: Path) -> Plan:
    """Store a plan in a folder, or, if it is already there, add new seeds to it. Return the plan as stored.

    Raises:
        InputError: If the plan cannot run in the folder, for a reason listed in `check_folder`.
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
    """Check that a plan can run in a folder, and return the plan stored there; None if no plan is stored yet.

    Raises:
        InputError: If `out` is a file, or holds other files than runs of `lit-prune fit`, other settings, or a symbolic
            link that leads out of it.
    """
    if (file := next((path for path in (out, *out.parents) if path.is_file()), None)) is not None:
        raise expected("`--out` to be a folder", f"the file `{file}`", "give another path")
    check_links(out)
    if (out / PLAN).is_file():
        known = stored_plan(out)
        _compare(known, plan, out)
        return known
    # `lit-prune fit --config quick` writes to lightning_logs/quick/version_0, where `study --preset quick` writes, too
    if out.is_dir() and not all(re.fullmatch(r"\..*|version_\d+", item.name) for item in out.iterdir()):
        what = f"`{out}` to be new, empty or this study's folder"
        raise expected(what, "a folder with other files", "give another `--out`")
    return None


def check_links(out: Path) -> None:
    """Check that no symbolic link in a study's folder leads out of it: runs could change other files through the link.

    The folder itself may be a link, and need not exist.

    Raises:
        InputError: If there is such a link, in the folder or in any folder below it.
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
    """Raise an `InputError` if two plans differ in a setting that affects results, and name the first such setting."""
    old, now = flatten(known.identity()), flatten(new.identity())
    for name in sorted(old.keys() | now.keys()):
        if old.get(name) != now.get(name):
            before, after = (f"`{name}` {v[name]!r}" if name in v else f"no `{name}`" for v in (old, now))
            hint = "give another `--out`, or use the settings of the plan in the folder"
            raise expected(f"{before}, as in the plan of the study in `{out}`", after, hint)
