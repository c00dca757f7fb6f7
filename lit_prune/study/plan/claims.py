"""What a study claims, as data: contrasts between experiments, and the limits that each has to keep."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

from lit_prune.errors import expected
from lit_prune.study.measures import MEASURES

__all__ = ["Claim", "Contrast", "read_claims"]


@dataclass(frozen=True)
class Contrast:
    """A difference, paired by seed, that a claim says lies between two limits.

    Attributes:
        of: The experiment that is looked at.
        measure: A name in `MEASURES`.
        minus: The experiment to compare it with. None takes `of` itself if `minus_measure` is given, or nothing away.
        minus_measure: The measure to take away. None takes `measure`.
        between: The limits, both included; None is no limit.
        exact: Look at each seed by itself; otherwise at the 95% confidence interval of the mean over seeds.
    """

    of: str
    measure: str
    minus: str | None = None
    minus_measure: str | None = None
    between: tuple[float | None, float | None] = (None, None)
    exact: bool = False

    def experiments(self) -> set[str]:
        """The one or two experiments that are needed."""
        return {name for name in (self.of, self.minus) if name is not None}


@dataclass(frozen=True)
class Claim:
    """A sentence, and the contrasts that all have to hold if it is true.

    Attributes:
        said: The claim.
        contrasts: At least one.
        pretrained: Whether it is about pre-trained initial weights; with random ones it cannot be decided.
    """

    said: str
    contrasts: tuple[Contrast, ...]
    pretrained: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Plain values, as `read_claims` takes them."""
        plain = [{k: list(v) if isinstance(v, tuple) else v for k, v in asdict(c).items()} for c in self.contrasts]
        return {"said": self.said, "pretrained": self.pretrained, "contrasts": plain}


def read_claims(items: Sequence[Any], experiments: Sequence[str], source: str) -> tuple[Claim, ...]:
    """Check claims that a plan makes.

    Args:
        items: Mappings with the keys of `Claim`; `of` of a contrast may be a list of experiments.
        experiments: The names that exist.
        source: The plan, for messages.

    Raises:
        InputError: If one cannot be used.
    """
    claims = []
    for item in items:
        plain = isinstance(item, dict) and isinstance(item.get("said"), str)
        if not plain or not isinstance(item.get("contrasts"), list | tuple) or not item["contrasts"]:
            raise expected(f"claims with `said` and `contrasts` in `{source}`", item, "see the plans that ship")
        _check_keys(item, Claim, item["said"])
        _check_switch(item, "pretrained", item["said"])
        contrasts = [c for contrast in item["contrasts"] for c in _contrasts(contrast, experiments, item["said"])]
        claims.append(Claim(item["said"], tuple(contrasts), item.get("pretrained", False)))
    return tuple(claims)


def _contrasts(item: Any, experiments: Sequence[str], said: str) -> list[Contrast]:
    if not isinstance(item, dict) or not item.get("of"):
        raise expected(f"contrasts with `of`, `measure` and `between` in the claim {said!r}", item, "check the keys")
    _check_keys(item, Contrast, said)
    names = item["of"] if isinstance(item["of"], list) else [item["of"]]
    for name in [*names, item.get("minus")]:
        if name is not None and name not in experiments:
            raise expected(f"the claim {said!r} to be about experiments of the plan", f"`{name}`", "check the name")
    for measure in (item.get("measure"), item.get("minus_measure") or item.get("measure")):
        if not isinstance(measure, str) or measure not in MEASURES:
            raise expected(f"a measure of the report in the claim {said!r}", f"`{measure}`", f"{', '.join(MEASURES)}")
    _check_switch(item, "exact", said)
    limits = item.get("between")
    if (
        not isinstance(limits, list | tuple)
        or len(limits) != 2
        or not all(limit is None or (isinstance(limit, int | float) and limit == limit) for limit in limits)
        or list(limits) == [None, None]
    ):
        raise expected(
            f"`between` with two limits in the claim {said!r}", str(limits), "write [low, high], null for none"
        )
    low, high = limits
    if low is not None and high is not None and low > high:
        raise expected(f"`between` with the lower limit first in the claim {said!r}", str(limits), "turn them round")
    return [Contrast(**{**item, "of": name, "between": (low, high)}) for name in names]


def _check_switch(item: dict[str, Any], key: str, said: str) -> None:
    if not isinstance(item.get(key, False), bool):
        raise expected(f"`{key}` in the claim {said!r} to be true or false", item[key], "choose one of these")


def _check_keys(item: dict[str, Any], cls: type, said: str) -> None:
    known = [f.name for f in fields(cls)]
    if unknown := [key for key in item if key not in known]:
        raise expected(f"the keys {', '.join(known)} in the claim {said!r}", f"`{unknown[0]}`", "check the spelling")
