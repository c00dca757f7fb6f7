"""What a study runs: experiments, each with a parent and overrides, read from YAML and checked before anything runs."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import InputError, expected
from lit_prune.files.nested import merge
from lit_prune.files.yaml import load_yaml
from lit_prune.study.plan.claims import Claim, read_claims

__all__ = [
    "ROLES",
    "Experiment",
    "Plan",
    "check_seeds",
    "load_plan",
    "read_mapping",
    "read_plan",
    "select",
    "shipped_plans",
]

_FOLDER = Path(__file__).parents[2] / "configs" / "study"
_NAME = re.compile(r"[A-Za-z0-9][\w.+-]*(/[A-Za-z0-9][\w.+-]*)*", re.ASCII)
_SHOWN = 200
# what else is in a study's folder
_TAKEN = ("report", "figures", "plan.yaml", "report.md", "results.csv")

# what a report calls a metric -> the name under which our model logs it
ROLES = {
    "train_loss": "train/loss",
    "train_acc": "train/acc",
    "val_loss": "val/loss",
    "val_acc": "val/acc",
    "test_loss": "test/loss",
    "test_acc": "test/acc",
}


@dataclass(frozen=True)
class Experiment:
    """One training, or one scoring, of a study.

    Attributes:
        name: Where its runs are below the study's folder, for example "task4/finetuned-10".
        parent: The experiment whose weights it starts from, with the same seed. None starts from initial weights.
        checkpoint: Which weights of the parent: "last", of its final epoch, or "best", of its best validation.
        train: False prunes as the callbacks say, and scores, without one step of training.
        overrides: What it changes in the study's settings; a key that ends in `+` adds to a list.
    """

    name: str
    parent: str | None = None
    checkpoint: str = "last"
    train: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """A study, complete and checked.

    Attributes:
        name: Default folder below `lightning_logs`.
        experiments: In an order in which each comes after its parent.
        seeds: Every experiment runs once with each.
        settings: A configuration of `lit-prune fit` that all experiments share.
        threads: CPU threads of each run. A part of the plan, because sums depend on it in their last bits.
        initial_weights: What experiments without a parent start from: "IMAGENET1K_V1", the path of a file, or "random".
            None where the model is somebody else's.
        metrics: Role in the report (`ROLES`) to the name under which the model logs it.
        groups: First part of experiment names to the title of their table.
        claims: What the report tests.
    """

    name: str
    experiments: tuple[Experiment, ...]
    seeds: tuple[int, ...] = (0,)
    settings: dict[str, Any] = field(default_factory=dict)
    threads: int = 1
    initial_weights: str | None = None
    metrics: dict[str, str] = field(default_factory=lambda: dict(ROLES))
    groups: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()

    def __getitem__(self, name: str) -> Experiment:
        return next(experiment for experiment in self.experiments if experiment.name == name)

    def with_seeds(self, seeds: Iterable[int]) -> "Plan":
        """The same study with other seeds."""
        return replace(self, seeds=check_seeds(list(seeds), "--seeds"))

    def identity(self) -> dict[str, Any]:
        """What decides the numbers that come out: all but seeds, titles and claims."""
        content = self.as_dict()
        return {key: content[key] for key in ("settings", "threads", "initial_weights", "experiments")}

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `read_plan` takes them."""
        content = asdict(self)
        content["seeds"] = list(self.seeds)
        content["experiments"] = [_without_defaults(experiment) for experiment in self.experiments]
        content["claims"] = [claim.as_dict() for claim in self.claims]
        return content


def shipped_plans() -> dict[str, Path]:
    """List the plans inside the package: from name to the path of its YAML file."""
    return {path.stem: path for path in sorted(_FOLDER.glob("*.yaml"))}


def load_plan(source: str | Path) -> Plan:
    """Read a plan that a person wrote.

    Args:
        source: The path of a YAML file, or the name of a plan that ships. With `base`, a plan says what it changes in
            another: `settings` and `groups` are merged, experiments and claims of the same name are replaced, and
            `only` lists globs of the experiments to keep, together with their parents.

    Raises:
        InputError: If there is no such plan, or it cannot be used.
    """
    content = _with_base(source, ())
    only = _list(content, "only", str(source))
    plan = read_plan({key: value for key, value in content.items() if key != "only"}, str(source))
    return _reduced(plan, select(plan, only, "`only`")) if only else plan


def read_plan(content: Mapping[str, Any], source: str) -> Plan:
    """Check the plain values of a plan.

    Args:
        content: As `Plan.as_dict` gives them.
        source: Where they come from, for messages.

    Raises:
        InputError: If they cannot be used.
    """
    _check_keys(content, Plan, f"the plan `{source}`")
    experiments = _ordered([_experiment(item, source) for item in _list(content, "experiments", source)])
    if not experiments:
        raise expected(
            f"at least one experiment in `{source}`", "none", "`experiments` is a list of names and overrides"
        )
    name = content.get("name", "study")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise expected(f"`name` in `{source}` to be a folder below lightning_logs", name, "give a plain name")
    threads = content.get("threads", 1)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise expected(f"`threads` in `{source}` to be a whole number from 1 on", threads, "1 is the fastest by far")
    metrics = _mapping(content, "metrics", source)
    if unknown := [role for role in metrics if role not in ROLES]:
        raise expected(f"`metrics` in `{source}` to name {', '.join(ROLES)}", f"`{unknown[0]}`", "check the name")
    weights = content.get("initial_weights")
    if weights is not None and not isinstance(weights, str):
        raise expected(f"`initial_weights` in `{source}` to be text or null", weights, "give a path or `random`")
    return Plan(
        name=name,
        experiments=experiments,
        seeds=check_seeds(content.get("seeds", [0]), source),
        settings=_settings(content, "settings", source),
        threads=threads,
        initial_weights=weights,
        metrics={str(k): str(v) for k, v in metrics.items()} or dict(ROLES),
        groups={str(k): str(v) for k, v in _mapping(content, "groups", source).items()},
        claims=read_claims(_list(content, "claims", source), [experiment.name for experiment in experiments], source),
    )


def read_mapping(path: Path, what: str, hint: str) -> dict[str, Any]:
    """Read a YAML file that holds names and values.

    Args:
        path: The file.
        what: What it should hold, for messages.
        hint: What to do if it holds something else.

    Raises:
        InputError: If it cannot be read, would be a danger to who reads it, or holds something else.
    """
    try:
        content = load_yaml(path)
    except InputError:
        raise
    except (OSError, ValueError, yaml.YAMLError) as error:  # ValueError: not UTF-8, or a date that there is not
        raise expected(f"`{path}` to hold YAML that can be read", " ".join(str(error).split()), "check it") from error
    if not isinstance(content, dict):
        found = "an empty file" if content is None else f"a {type(content).__name__}"
        raise expected(f"{what} in `{path}`", found, hint)
    return content


def check_seeds(seeds: Any, source: str) -> tuple[int, ...]:
    """Check the seeds of a study.

    Raises:
        InputError: If they are not different whole numbers that seed everything, or there is none.
    """
    fine = isinstance(seeds, list | tuple) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not fine or not seeds or len(set(seeds)) < len(seeds):
        raise expected(
            f"`seeds` in `{source}` to be different whole numbers from 0 on", str(seeds), "for example 0 1 2"
        )
    return tuple(seeds)


def select(plan: Plan, patterns: Iterable[str], source: str = "`--only`") -> list[Experiment]:
    """Choose experiments by globs on their names, together with the parents that they need.

    Args:
        plan: The study.
        patterns: The globs.
        source: Where they come from, for messages.

    Raises:
        InputError: If a glob matches nothing.
    """
    names = [experiment.name for experiment in plan.experiments]
    wanted: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, str(pattern))}
        if not found:
            known = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            raise expected(f"{source} to match an experiment", f"`{pattern}`", f"there are {known}")
        wanted |= found
    for experiment in reversed(plan.experiments):
        if experiment.name in wanted and experiment.parent is not None:
            wanted.add(experiment.parent)
    return [experiment for experiment in plan.experiments if experiment.name in wanted]


def _reduced(plan: Plan, experiments: list[Experiment]) -> Plan:
    """Leave experiments out, and what claims say about them."""
    names = {experiment.name for experiment in experiments}
    claims = [(claim, tuple(c for c in claim.contrasts if c.experiments() <= names)) for claim in plan.claims]
    return replace(
        plan,
        experiments=tuple(experiments),
        claims=tuple(replace(claim, contrasts=contrasts) for claim, contrasts in claims if contrasts),
    )


def _with_base(source: str | Path, seen: tuple[Path, ...]) -> dict[str, Any]:
    path = _find(source)
    if path in seen:
        raise expected("plans whose `base` leads to an end", f"`{source}`, which leads to itself", "take one away")
    content = read_mapping(path, "a plan by keys (`experiments: [...]`)", "see the plans that ship")
    content.setdefault("name", path.stem)  # not that of the base: they would share a folder
    base = content.pop("base", None)
    if base is None:
        return content
    below = _with_base(_find_base(str(base), path), (*seen, path))
    for key in ("settings", "groups"):
        content[key] = merge(_mapping(below, key, str(base)), _mapping(content, key, str(source)))
    for key, name in (("experiments", "name"), ("claims", "said")):
        content[key] = _replaced(_list(below, key, str(base)), _list(content, key, str(source)), name)
    return below | content


def _find_base(base: str, path: Path) -> str | Path:
    """A path is meant from the file that names it, and does not leave its folder; a name that ships is one anywhere."""
    folder = path.parent.resolve()
    try:
        beside = (folder / base).resolve()
        if beside.is_relative_to(folder) and beside.is_file():
            return beside
    except (OSError, ValueError):  # no name that a file can have
        raise _not_found(base) from None
    if base in shipped_plans():
        return base
    if beside.is_relative_to(folder):
        raise _not_found(base)
    raise expected(f"`base` in `{path}` to stay in its folder", f"`{base[:_SHOWN]}`", "copy that plan beside this one")


def _replaced(below: list[Any], own: list[Any], key: str) -> list[Any]:
    """Items of two lists; one of the second takes the place of that of the first which has the same name."""
    names = [item.get(key) if isinstance(item, dict) else None for item in below]
    kept = list(below)
    for item in own:
        name = item.get(key) if isinstance(item, dict) else None
        if name is not None and name in names:
            kept[names.index(name)] = item
        else:
            kept.append(item)
    return kept


def _find(source: str | Path) -> Path:
    shipped = shipped_plans()
    if str(source) in shipped:  # whatever files are in this folder
        return shipped[str(source)]
    if Path(source).is_file():
        return Path(source).resolve()
    raise _not_found(source)


def _not_found(source: str | Path) -> InputError:
    hint = f"those that ship are {', '.join(shipped_plans())}"
    return expected("a YAML file or a plan that ships", f"`{str(source)[:_SHOWN]}`", hint)


def _experiment(item: Any, source: str) -> Experiment:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise expected(f"experiments with a `name` in `{source}`", item, "each is a mapping of name, parent, overrides")
    name = item["name"]
    _check_keys(item, Experiment, f"experiment `{name}`")
    if not _NAME.fullmatch(name) or "seed=" in name:
        raise expected(
            "an experiment's name to be a folder in the study's", f"`{name}`", "use letters, digits, - and /"
        )
    if name.split("/")[0].lower() in _TAKEN:
        raise expected("an experiment's name to leave the report its files", f"`{name}`", "give it another name")
    if not isinstance(item.get("parent"), str | None):
        raise expected(f"the parent of `{name}` to be an experiment", item["parent"], "there can be one")
    experiment = Experiment(**{**item, "overrides": _settings(item, "overrides", name)})
    if experiment.checkpoint not in ("last", "best"):
        raise expected(f"`checkpoint` of `{name}` to be last or best", experiment.checkpoint, "choose one of these")
    if not isinstance(experiment.train, bool):
        raise expected(f"`train` of `{name}` to be true or false", experiment.train, "choose one of these")
    return experiment


def _ordered(experiments: list[Experiment]) -> tuple[Experiment, ...]:
    """Parents first; otherwise as they were written."""
    by_name: dict[str, Experiment] = {}
    for experiment in experiments:
        if experiment.name in by_name:
            raise expected("experiments with different names", f"`{experiment.name}` twice", "rename one")
        by_name[experiment.name] = experiment
    folders = {"/".join(name.split("/")[:end]): name for name in by_name for end in range(1, name.count("/") + 1)}
    if clash := sorted(set(folders) & set(by_name)):
        raise expected("experiments in folders of their own", f"`{clash[0]}` and `{folders[clash[0]]}`", "rename one")
    ordered: dict[str, Experiment] = {}
    for experiment in experiments:
        chain = [experiment]
        while (parent := chain[-1].parent) is not None and parent not in ordered:
            if parent not in by_name:
                raise expected(f"the parent of `{chain[-1].name}` to be an experiment", f"`{parent}`", "check the name")
            if parent in (link.name for link in chain):
                way = " -> ".join([*(link.name for link in chain), parent])
                raise expected("parents that lead to initial weights", f"a cycle, {way}", "give one of them no parent")
            chain.append(by_name[parent])
        ordered |= {link.name: link for link in reversed(chain)}
    return tuple(ordered.values())


def _check_keys(content: Mapping[str, Any], cls: type, what: str) -> None:
    known = [f.name for f in fields(cls)]
    if unknown := [key for key in content if key not in known]:
        raise expected(f"{what} to have the keys {', '.join(known)}", f"`{unknown[0]}`", "check the spelling")


def _list(content: Mapping[str, Any], key: str, source: str) -> list[Any]:
    value = content.get(key) or []
    if not isinstance(value, list | tuple):
        raise expected(f"`{key}` in `{source}` to be a list", value, "begin its lines with `-`")
    return list(value)


def _mapping(content: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    value = content.get(key) or {}
    if not isinstance(value, dict):
        raise expected(f"`{key}` in `{source}` to be names and values", value, "write `name: value`")
    return dict(value)


def _settings(content: Mapping[str, Any], key: str, source: str) -> dict[str, Any]:
    """A configuration, as far as it can be checked without the classes that it is about."""
    value = _mapping(content, key, source)
    for group in ("model", "data", "trainer"):
        by_name = isinstance(value.get(group), str) and group != "trainer"  # the name of a class alone
        if not by_name and not isinstance(value.get(group), dict | None):
            raise expected(f"`{group}` in `{source}` to be names and values", value[group], "write `name: value`")
    return value


def _without_defaults(experiment: Experiment) -> dict[str, Any]:
    plain = asdict(experiment)
    defaults = {f.name: f.default for f in fields(Experiment)} | {"overrides": {}}
    return {key: value for key, value in plain.items() if value != defaults[key]}
