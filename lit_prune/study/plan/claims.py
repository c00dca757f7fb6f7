"""The claims that a study tests. A claim holds if certain measures, or differences of measures, lie within limits."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from lit_prune.errors import expected
from lit_prune.study.measures import MEASURES
from lit_prune.study.plan.values import check_bool, check_keys


@dataclass(frozen=True)
class Contrast:
    """A condition of a claim: a measure, or the difference of two measures with the same seed, must lie within limits.

    Attributes:
        of: Name of the experiment that is measured.
        measure: Name of the measure, a key of `MEASURES`.
        minus: Name of the experiment whose measure is subtracted. None means `of` if `minus_measure` is set; otherwise,
            None means that nothing is subtracted.
        minus_measure: Name of the measure to subtract. None means the same as `measure`.
        between: Lower and upper limit, both inclusive; None in place of a limit means no limit.
        exact: If true, the value of every seed must lie within the limits, instead of the 95% confidence interval of
            the mean over seeds.
    """

    of: str
    measure: str
    minus: str | None = None
    minus_measure: str | None = None
    between: tuple[float | None, float | None] = (None, None)
    exact: bool = False

    def experiments(self) -> set[str]:
        """Return the names of the one or two experiments that the contrast measures."""
        return {name for name in (self.of, self.minus) if name is not None}


@dataclass(frozen=True)
class Claim:
    """A statement about the results of a study, which holds if all of its contrasts hold.

    Attributes:
        said: The statement, as shown in the report.
        contrasts: At least one contrast.
        pretrained: Whether the claim is about pre-trained weights; such a claim is inconclusive if any run starts from
            random weights.
    """

    said: str
    contrasts: tuple[Contrast, ...]
    pretrained: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return a mapping that can be written as YAML, and that `read_claims` can read."""
        plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(c).items()} for c in self.contrasts]
        return {"said": self.said, "pretrained": self.pretrained, "contrasts": plain}


def read_claims(items: Sequence[Any], experiments: Sequence[str], source: str) -> tuple[Claim, ...]:
    """Make claims from mappings with the fields of `Claim`.

    A contrast whose `of` is a list of experiments stands for one contrast per experiment.

    Raises:
        InputError: If a claim has unknown keys, names an unknown experiment or measure, or has invalid limits.
    """
    claims = []
    for item in items:
        plain = isinstance(item, dict) and isinstance(item.get("said"), str)
        if not plain or not isinstance(item.get("contrasts"), list | tuple) or not item["contrasts"]:
            hint = "see the plans in `lit_prune/configs/study` for examples"
            raise expected(f"each claim in `{source}` to have `said` and `contrasts`", item, hint)
        where = f"in the claim {item['said']!r}"
        check_keys(item, Claim, where)
        check_bool(item, "pretrained", where)
        contrasts = [c for contrast in item["contrasts"] for c in _read_contrasts(contrast, experiments, where)]
        claims.append(Claim(item["said"], tuple(contrasts), item.get("pretrained", False)))
    return tuple(claims)


def _read_contrasts(item: Any, experiments: Sequence[str], where: str) -> list[Contrast]:
    if not isinstance(item, dict) or not item.get("of"):
        raise expected(f"each contrast {where} to have `of`, `measure` and `between`", item, "check the keys")
    check_keys(item, Contrast, where)
    check_bool(item, "exact", where)
    names = item["of"] if isinstance(item["of"], list) else [item["of"]]
    for name in [*names, item.get("minus")]:
        if name is not None and name not in experiments:
            raise expected(f"every experiment {where} to be in the plan", f"`{name}`", "check the name")
    for measure in (item.get("measure"), item.get("minus_measure") or item.get("measure")):
        if not isinstance(measure, str) or measure not in MEASURES:
            raise expected(f"a known measure {where}", f"`{measure}`", f"choose from {', '.join(MEASURES)}")
    limits = item.get("between")
    if (
        not isinstance(limits, list | tuple)
        or len(limits) != 2
        or not all(limit is None or (isinstance(limit, int | float) and limit == limit) for limit in limits)
        or list(limits) == [None, None]
    ):
        hint = "write [low, high]; null instead of one of them means no limit"
        raise expected(f"`between` with two limits {where}", str(limits), hint)
    low, high = limits
    if low is not None and high is not None and low > high:
        raise expected(f"`between` with the lower limit first {where}", str(limits), "swap the limits")
    return [Contrast(**{**item, "of": name, "between": (low, high)}) for name in names]
