"""Validate the content of a plan's YAML file, and make a `Plan` from it."""

import re
from collections.abc import Mapping
from typing import Any

from lit_prune.errors import expected
from lit_prune.study.plan.claims import read_claims
from lit_prune.study.plan.plan import ROLES, Experiment, Plan, check_seeds
from lit_prune.study.plan.values import check_bool, check_keys, get_list, get_mapping

_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
# names that experiments must not use, because the study writes files and folders with these names
_TAKEN = ("report", "figures", "plan.yaml", "report.md", "report.html", "results.csv")


def read_plan(content: Mapping[str, Any], source: str) -> Plan:
    """Make a `Plan` from a mapping, which may be the content of a YAML file. Errors name `source`, the file.

    Raises:
        InputError: If the plan is invalid.
    """
    where = f"in `{source}`"
    check_keys(content, Plan, where)
    experiments = _parents_first([_read_experiment(item, where) for item in get_list(content, "experiments", where)])
    if not experiments:
        raise expected(f"at least one experiment {where}", "none", "list them under `experiments`")
    name = content.get("name", "study")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise expected(f"`name` {where} to name a folder below lightning_logs", name, "use letters, digits, - and /")
    threads = content.get("threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise expected(f"`threads` {where} to be a positive integer", threads, "studies finish soonest with 1")
    weights = content.get("initial_weights")
    if not isinstance(weights, str | None):
        hint = "write `random`, `IMAGENET1K_V1` or a path"
        raise expected(f"`initial_weights` {where} to be text or null", weights, hint)
    metrics = get_mapping(content, "metrics", where)
    if unknown := [role for role in metrics if role not in ROLES]:
        raise expected(
            f"only the keys {', '.join(ROLES)} in `metrics` {where}", f"`{unknown[0]}`", "check the spelling"
        )
    return Plan(
        name=name,
        experiments=experiments,
        seeds=check_seeds(content.get("seeds", [0]), f"`seeds` {where}"),
        settings=_read_settings(content, "settings", where),
        threads=threads,
        initial_weights=weights,
        metrics={str(key): str(value) for key, value in metrics.items()} or dict(ROLES),
        groups={str(key): str(value) for key, value in get_mapping(content, "groups", where).items()},
        claims=read_claims(get_list(content, "claims", where), [experiment.name for experiment in experiments], source),
    )


def _read_experiment(item: Any, where: str) -> Experiment:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise expected(f"each experiment {where} to have a `name`", item, "begin each with `- name: ...`")
    name = item["name"]
    here = f"of the experiment `{name}`"
    check_keys(item, Experiment, here)
    if not _NAME.fullmatch(name) or "seed=" in name:
        raise expected("the name of an experiment to be a relative path", f"`{name}`", "use letters, digits, - and /")
    if name.split("/")[0].lower() in _TAKEN:
        what = f"the first part of an experiment's name not to be one of {', '.join(_TAKEN)}"
        raise expected(what, f"`{name}`", "rename the experiment")
    if not isinstance(item.get("parent"), str | None):
        raise expected(f"`parent` {here} to name one experiment", item["parent"], "write one name")
    if item.get("checkpoint", "last") not in ("last", "best"):
        raise expected(f"`checkpoint` {here} to be last or best", item["checkpoint"], "choose one of these")
    check_bool(item, "train", here)
    return Experiment(**{**item, "overrides": _read_settings(item, "overrides", here)})


def _read_settings(content: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    """Return the settings under a key. Only their form is checked; the classes that they name are not imported."""
    groups = ("model", "data", "trainer")
    # a group without a value, for example because its lines are comments, changes nothing
    settings = {k: v for k, v in get_mapping(content, key, where).items() if not (k in groups and v is None)}
    for group in groups:
        # `model` and `data` may be the name of a class
        if not (isinstance(settings.get(group), str) and group != "trainer"):
            get_mapping(settings, group, where)
    return settings


def _parents_first(experiments: list[Experiment]) -> tuple[Experiment, ...]:
    """Sort experiments so that each comes after its parent; otherwise keep their order."""
    by_name = {experiment.name: experiment for experiment in experiments}
    names = [experiment.name for experiment in experiments]
    if twice := [name for index, name in enumerate(names) if name in names[:index]]:
        raise expected("experiments with different names", f"`{twice[0]}` twice", "rename one of the two")
    folders = {"/".join(name.split("/")[:end]): name for name in names for end in range(1, name.count("/") + 1)}
    if clash := sorted(folders.keys() & by_name.keys()):
        raise expected("no experiment inside another's folder", f"`{clash[0]}` and `{folders[clash[0]]}`", "rename one")
    ordered: dict[str, Experiment] = {}
    for experiment in experiments:
        chain = [experiment]
        while (parent := chain[-1].parent) is not None and parent not in ordered:
            links = [link.name for link in chain]
            if parent not in by_name:
                raise expected(f"`parent` of the experiment `{links[-1]}` to exist", f"`{parent}`", "check the name")
            if parent in links:
                raise expected("parents without a cycle", " -> ".join([*links, parent]), "remove one `parent`")
            chain.append(by_name[parent])
        ordered |= {link.name: link for link in reversed(chain)}
    return tuple(ordered.values())
