"""The claims that a study tests: each needs measures, or differences of measures, to lie within limits."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lit_prune.errors import expected
from lit_prune.study.measures import MEASURES
from lit_prune.study.plan.values import check_bool, check_keys


@dataclass(frozen=True)
class Contrast:
    """Limits for the value of a measure in an experiment, or for its difference from a second value of the same seed.

    Attributes:
        of: Name of an experiment.
        measure: A name in `MEASURES`.
        minus: Name of the experiment whose measure is subtracted. None means `of` if `minus_measure` is set; if both
            are None, nothing is subtracted.
        minus_measure: Measure to subtract. None means `measure`.
        between: Lower and upper limit, both inclusive; None means unlimited.
        exact: Whether the values of all seeds must lie within the limits; if not, the 95% interval of the mean must.
    """

    of: str
    measure: str
    minus: str | None = None
    minus_measure: str | None = None
    between: tuple[float | None, float | None] = (None, None)
    exact: bool = False

    def experiments(self) -> set[str]:
        """Return the names of the one or two experiments that are compared."""
        return {name for name in (self.of, self.minus) if name is not None}


@dataclass(frozen=True)
class Claim:
    """A statement about the results, and the contrasts that must all hold for it to hold.

    Attributes:
        said: The statement, as shown in the report.
        contrasts: At least one contrast.
        pretrained: Whether the claim is about pre-trained weights. It is inconclusive if runs start from random ones.
    """

    said: str
    contrasts: tuple[Contrast, ...]
    pretrained: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return a mapping for YAML, from which `read_claims` restores the claim."""
        plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(c).items()} for c in self.contrasts]
        return {"said": self.said, "pretrained": self.pretrained, "contrasts": plain}


def read_claims(items: Sequence[Any], experiments: Sequence[str], source: str) -> tuple[Claim, ...]:
    """Make claims from mappings with the fields of `Claim`; `of` in a contrast may be a list of experiments.

    Raises:
        InputError: If a claim has unknown keys, names an unknown experiment or measure, or has invalid limits.
    """
    claims = []
    for item in items:
        plain = isinstance(item, dict) and isinstance(item.get("said"), str)
        if not plain or not isinstance(item.get("contrasts"), list | tuple) or not item["contrasts"]:
            raise expected(f"claims with `said` and `contrasts` in `{source}`", item, "see `lit_prune/configs/study`")
        where = f"in the claim {item['said']!r}"
        check_keys(item, Claim, where)
        check_bool(item, "pretrained", where)
        contrasts = [c for contrast in item["contrasts"] for c in _read_contrasts(contrast, experiments, where)]
        claims.append(Claim(item["said"], tuple(contrasts), item.get("pretrained", False)))
    return tuple(claims)


def _read_contrasts(item: Any, experiments: Sequence[str], where: str) -> list[Contrast]:
    if not isinstance(item, dict) or not item.get("of"):
        raise expected(f"contrasts with `of`, `measure` and `between` {where}", item, "check the keys")
    check_keys(item, Contrast, where)
    check_bool(item, "exact", where)
    names = item["of"] if isinstance(item["of"], list) else [item["of"]]
    for name in [*names, item.get("minus")]:
        if name is not None and name not in experiments:
            raise expected(f"an experiment of the plan {where}", f"`{name}`", "check the name")
    for measure in (item.get("measure"), item.get("minus_measure") or item.get("measure")):
        if not isinstance(measure, str) or measure not in MEASURES:
            raise expected(f"a measure of the report {where}", f"`{measure}`", f"choose from {', '.join(MEASURES)}")
    limits = item.get("between")
    if (
        not isinstance(limits, list | tuple)
        or len(limits) != 2
        or not all(limit is None or (isinstance(limit, int | float) and limit == limit) for limit in limits)
        or list(limits) == [None, None]
    ):
        raise expected(f"`between` with two limits {where}", str(limits), "write [low, high], with null for no limit")
    low, high = limits
    if low is not None and high is not None and low > high:
        raise expected(f"`between` with the lower limit first {where}", str(limits), "swap them")
    return [Contrast(**{**item, "of": name, "between": (low, high)}) for name in names]
