"""What would decide the claims on which the verdict is inconclusive: a command for each, and its duration."""

import math
import shlex
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from lit_prune.study.measures import format_duration
from lit_prune.study.plan.plan import select
from lit_prune.study.plan.stored import PLAN
from lit_prune.study.results.results import Results
from lit_prune.study.results.verdicts import INCONCLUSIVE, Finding, Judgement
from lit_prune.study.statistics import seeds_to_exclude

_MANY = 1000
_LONGER = 4  # how many times as long to train, if more seeds would not help
_IMAGENET = "IMAGENET1K_V1"
_INTRODUCTION = (
    "Numbers of seeds are estimates: they assume that means and spreads stay as measured here. Times are for runs one "
    "after another, each as long as here; parallel runs (`--jobs`) finish earlier. Commands with other seeds or "
    "settings write to new folders: in the folder of this study, experiments without the new seeds would count as "
    "incomplete."
)


@dataclass(frozen=True)
class Advice:
    """What would decide a claim.

    Attributes:
        claim: The claim.
        need: What is needed, in a phrase such as "about 36 seeds, about 4 h 12 min".
        command: Command that starts the runs that are needed; "" if there is none.
    """

    claim: str
    need: str
    command: str


def advise(results: Results, judgements: Sequence[Judgement]) -> list[Advice]:
    """Return an `Advice` for each claim on which the verdict is inconclusive."""
    undecided = [judgement for judgement in judgements if judgement.verdict == INCONCLUSIVE]
    return [_advise(results, judgement, number) for number, judgement in enumerate(undecided, start=1)]


def undecided_section(advices: Sequence[Advice]) -> list[str]:
    """Return the paragraphs of the report on undecided claims."""
    lines = []
    for advice in advices:
        lines.append(f"**{advice.claim}**: {advice.need}.")
        if advice.command:
            lines.append(f"```text\n{advice.command}\n```")
    return ["### What would decide the inconclusive claims", _INTRODUCTION, *lines] if lines else []


def _advise(results: Results, judgement: Judgement, number: int) -> Advice:
    said, plan = judgement.claim.said, results.plan
    named = sorted(set().union(*(contrast.experiments() for contrast in judgement.claim.contrasts)))
    names = [experiment.name for experiment in select(plan, named)]
    start = f"lit-prune study {shlex.quote(str(results.folder / PLAN))}"
    only, same = f"--only {' '.join(named)}", " ".join(map(str, plan.seeds))
    out = f"--out {shlex.quote(f'{results.folder}-claim-{number}')}"
    if diverged := [name for name in named if results.diverged(name)]:
        return Advice(said, f"nothing, as long as {diverged[0]} diverges: change its settings", "")
    if any(run.status != "complete" for name in names for run in results.of(name)):
        here = f"--out {shlex.quote(str(results.folder))}"
        return Advice(said, "the runs that are not complete", f"{start} {only} --seeds {same} {here}")
    if judgement.note:  # a claim about pre-trained weights
        need = f"the same runs from pre-trained weights{_hours(results, names, len(plan.seeds))}"
        return Advice(said, need, f"{start} {only} --weights {_IMAGENET} --seeds {same} {out}")
    count = _count_seeds(judgement.findings)
    if count > _MANY:
        need = f"more than {_MANY:,} seeds; longer training may need fewer"
        epochs = (plan.settings.get("trainer") or {}).get("max_epochs")
        # an experiment that sets its own `max_epochs` ignores the option
        if not isinstance(epochs, int) or any("max_epochs" in (plan[n].overrides.get("trainer") or {}) for n in names):
            return Advice(said, need, "")
        need += f": try {_LONGER} times the epochs{_hours(results, names, len(plan.seeds) * _LONGER)}"
        return Advice(said, need, f"{start} {only} --max_epochs {_LONGER * epochs} --seeds {same} {out}")
    if count == 0:
        return Advice(said, "a value for every seed, which the runs did not log", "")
    seeds = " ".join(map(str, range(count))) if count <= 20 else f"$(seq 0 {count - 1})"
    least = "at least " if len(plan.seeds) == 1 else "about "
    need = f"{least}{count} seeds{_hours(results, names, count)}"
    return Advice(said, need, f"{start} {only} --seeds {seeds} {out}")


def _count_seeds(findings: Sequence[Finding]) -> int:
    """Estimate how many seeds decide a claim; 0 if more seeds cannot, because a measure was not logged.

    A claim is decided as soon as a contrast fails, or else when all contrasts hold.
    """
    holding, failing, missing = [0], list[int](), False
    for finding in findings:
        if finding.verdict != INCONCLUSIVE:
            continue
        if finding.estimate is None:
            missing = True
            continue
        mean, (low, high) = finding.estimate.mean, finding.contrast.between
        inside = (low is None or low <= mean) and (high is None or mean <= high)
        distance = min(abs(mean - limit) for limit in (low, high) if limit is not None)
        (holding if inside else failing).append(seeds_to_exclude(finding.estimate, distance))
    return min(failing) if failing else 0 if missing else max(holding)


def _hours(results: Results, names: Sequence[str], seeds: int) -> str:
    """Return ", about 2 h 30 min", for one run per seed of each experiment; "" if the time of a run is unknown."""
    total = 0.0
    for name in names:
        complete = results.with_status(name, "complete")
        # `seconds` counts only since the run was last resumed
        epochs = [run.measures.get("epochs", 0) * run.measures.get("seconds_per_epoch", 0) for run in complete]
        known = [max(run.seconds, least) for run, least in zip(complete, epochs, strict=True)]
        known = [seconds for seconds in known if math.isfinite(seconds)]
        if not known:
            return ""
        total += statistics.median(known)  # hardly depends on a run that was paused
    return f", {format_duration(total * seeds)}"
