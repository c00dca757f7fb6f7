"""The section "Summary" at the top of a report: verdicts, the best experiment, and differences from baselines."""

from collections.abc import Sequence

from lit_prune.study.measures import MEASURES, format_estimate
from lit_prune.study.report.tables import markdown_table
from lit_prune.study.report.undecided import Advice
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import accuracy_measure, baseline_values, find_baseline
from lit_prune.study.results.verdicts import Judgement
from lit_prune.study.statistics import Estimate, estimate

_NONE = "-"
_CONTROL = "control"  # the group of control experiments


def summary(results: Results, judgements: Sequence[Judgement], advices: Sequence[Advice]) -> list[str]:
    """Return the paragraphs and tables of the section; none if there are neither claims nor accuracies."""
    found = []
    if judgements:
        needs = {advice.claim: advice.need for advice in advices}
        rows = [[j.claim.said, f"**{j.verdict}**", needs.get(j.claim.said, _NONE)] for j in judgements]
        found.append(markdown_table(["claim", "verdict", "to decide it"], rows, left=3))
    if measure := accuracy_measure(results):
        found += [_best(results, measure), *_contrasts(results, measure)]
    return found


def _best(results: Results, measure: str) -> str:
    """Describe the experiment with the best validation accuracy; the best test accuracy would be biased upwards."""
    means = {e.name: estimate(results.values(e.name, "final_val_acc").values()) for e in results.plan.experiments}
    # a mean over some of the seeds cannot be compared with one over all of them
    most = max((mean.n for mean in means.values() if mean is not None), default=0)
    known = {name: mean for name, mean in means.items() if mean is not None and mean.n == most}
    if not known:
        return ""
    best = max(known, key=lambda name: known[name].mean)
    value = format_estimate(MEASURES["final_val_acc"], known[best])
    text = f"Highest final validation accuracy of all experiments, however long they trained: **{best}**, {value}%."
    low, high = known[best].interval
    if within := sum(low <= mean.mean <= high for name, mean in known.items() if name != best):
        text += f" {within} other experiment{' lies' if within == 1 else 's lie'} within its interval."
    tested = estimate(results.values(best, measure).values())
    if measure == "final_test_acc" and tested is not None:
        text += f" The test accuracy of **{best}** is {format_estimate(MEASURES[measure], tested)}%."
    return text


def _contrasts(results: Results, measure: str) -> list[str]:
    plan = results.plan
    baselines = {e.name: find_baseline(results, e) for e in plan.experiments}
    rows, clear, intervals = [], 0, 0
    for experiment in plan.experiments:
        name, dense = experiment.name, baselines[experiment.name]
        values, others = results.values(name, measure), baseline_values(results, experiment, measure)
        mean = estimate(values.values())
        difference = estimate(value - others[seed] for seed, value in values.items() if seed in others)
        intervals += difference is not None and difference.low is not None
        excludes = difference is not None and _excludes_zero(difference)
        clear += excludes
        role = "baseline" if name in baselines.values() else _CONTROL if name.startswith(f"{_CONTROL}/") else ""
        sparsity = estimate(results.values(name, "sparsity_end").values())
        found = ((measure, mean), (measure, difference), ("sparsity_end", sparsity))
        cells = [_NONE if value is None else _format(results, of, value) for of, value in found]
        if excludes:
            cells[1] = f"**{cells[1]}**"
        rows.append([name, role, dense or _NONE, *cells])
    label = MEASURES[measure].column
    header = ["experiment", "role", "compared with", f"{label} accuracy, %", "difference, points", "sparsity at end, %"]
    text = (
        "*Difference*: the accuracy of an experiment minus that of its *baseline*, which the column *compared with* "
        "names, paired by seed. The baseline starts from the same weights and trains as long, without changes; for an "
        "experiment that does not train, it is the network before pruning."
    )
    if intervals:
        text += (
            f" Bold: the interval excludes zero ({clear} of {intervals} differences; if no experiment made a "
            "difference, about one in twenty intervals would)."
        )
    return [text, markdown_table(header, rows, left=3)]


def _format(results: Results, measure: str, value: Estimate) -> str:
    """Format a mean, with the number of its seeds if some are missing."""
    text = format_estimate(MEASURES[measure], value)
    return text if value.n == len(results.plan.seeds) else f"{text} (n = {value.n})"


def _excludes_zero(difference: Estimate) -> bool:
    return difference.low is not None and difference.high is not None and difference.low * difference.high > 0
