"""The plan of a study: experiments, the settings and seeds that they share, and the claims to test."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields, replace
from fnmatch import fnmatchcase
from typing import Any

from lit_prune.errors import expected
from lit_prune.study.plan.claims import Claim

# role of a metric in the report -> name under which this project's model logs the metric
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
    """A training, or an evaluation without training, that a study runs once with each seed.

    Attributes:
        name: Name, which is also the path of the experiment in the study's folder, such as "task4/finetuned-10".
        parent: Name of the experiment to start from: a run loads the weights of that experiment's run with the same
            seed. None to start from the initial weights.
        checkpoint: Which checkpoint of the parent to load: "last", or "best" by the monitored metric.
        train: Whether to train. If false, a run only prunes the network with its callbacks, and validates and tests it.
        overrides: Changes to the plan's `settings`. A key that ends in `+` appends to a list instead of replacing it.
    """

    name: str
    parent: str | None = None
    checkpoint: str = "last"
    train: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the fields that differ from their defaults."""
        defaults = {f.name: f.default for f in fields(self)} | {"overrides": {}}
        return {key: value for key, value in asdict(self).items() if value != defaults[key]}


@dataclass(frozen=True)
class Plan:
    """The validated plan of a study.

    Attributes:
        name: Name of the study, and of its default folder in `lightning_logs`.
        experiments: All experiments, each after its parent.
        seeds: Random seeds; every experiment runs once with each.
        settings: A configuration of `lit-prune fit` that all experiments share.
        threads: Number of CPU threads of each run. Results are bit-identical only with the same number of threads.
        initial_weights: Weights of experiments without a parent: "IMAGENET1K_V1", "random", or the path of a file.
            None leaves the initialization to the model class.
        metrics: Mapping from keys of `ROLES` to the names under which the model logs these metrics.
        groups: Titles of the report's sections. A key is the part of experiments' names before the first slash: "task4"
            for "task4/l1-10".
        claims: Claims that the report tests.
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
        """Return the same plan with other seeds."""
        return replace(self, seeds=check_seeds(list(seeds), "`--seeds`"))

    def identity(self) -> dict[str, Any]:
        """Return the fields that affect the results of a run: settings, threads, initial weights and experiments."""
        own = {key: getattr(self, key) for key in ("settings", "threads", "initial_weights")}
        return own | {"experiments": {experiment.name: experiment.as_dict() for experiment in self.experiments}}

    def as_dict(self) -> dict[str, Any]:
        """Return a mapping that can be written as YAML, and that `read_plan` can read."""
        return asdict(self) | {
            "seeds": list(self.seeds),
            "experiments": [experiment.as_dict() for experiment in self.experiments],
            "claims": [claim.as_dict() for claim in self.claims],
        }


def check_seeds(seeds: Any, source: str) -> tuple[int, ...]:
    """Check the seeds of a study, and return them as a tuple.

    Raises:
        InputError: If `seeds` is not a list of one or more different integers in [0, 2^32).
    """
    fine = isinstance(seeds, list | tuple) and all(type(seed) is int and 0 <= seed < 2**32 for seed in seeds)
    if not fine or not seeds or len(set(seeds)) < len(seeds):
        raise expected(f"{source} to be different integers in [0, 2^32)", str(seeds), "for example 0, 1 and 2")
    return tuple(seeds)


def select(plan: Plan, patterns: Iterable[str], source: str = "`--only`") -> list[Experiment]:
    """Select the experiments whose names match one of the globs, and their ancestors: parents, parents of parents, etc.

    Raises:
        InputError: If a glob matches no experiment.
    """
    names = [experiment.name for experiment in plan.experiments]
    wanted: set[str] = set()
    for pattern in patterns:
        found = {name for name in names if fnmatchcase(name, str(pattern))}
        if not found:
            known = ", ".join(names[:4]) + (", ..." if len(names) > 4 else "")
            raise expected(f"{source} to match an experiment", f"`{pattern}`", f"the plan has the experiments {known}")
        wanted |= found
    for experiment in reversed(plan.experiments):
        if experiment.name in wanted and experiment.parent is not None:
            wanted.add(experiment.parent)
    return [experiment for experiment in plan.experiments if experiment.name in wanted]


def keep(plan: Plan, experiments: Iterable[Experiment]) -> Plan:
    """Return a plan with only the given experiments, and only the contrasts that need no other experiments."""
    kept = tuple(experiments)
    names = {experiment.name for experiment in kept}
    claims = (
        replace(claim, contrasts=tuple(c for c in claim.contrasts if c.experiments() <= names)) for claim in plan.claims
    )
    return replace(plan, experiments=kept, claims=tuple(claim for claim in claims if claim.contrasts))
