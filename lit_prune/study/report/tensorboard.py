"""A study's summary for TensorBoard: curves over all seeds, charts that group them, figures, the report."""

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)

from lit_prune.study.report.events import image, layout, scalar, text, write_events
from lit_prune.study.results.curves import mean_curve
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, prunes, tradeoff

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

__all__ = ["write_board"]

_ROLES = ("train_loss", "val_loss", "train_acc", "val_acc", "sparsity")
_CHARTS = {"accuracy": "(train|val)_acc", "loss": "(train|val)_loss", "sparsity": "sparsity"}


def write_board(results: Results, figures: Sequence["Figure"], report_text: str) -> None:
    """Write the run `report` beside the runs of a study, in place of an older one.

    - `<experiment>/train_loss`, `val_loss`, `train_acc`, `val_acc` and, if it prunes, `sparsity`: means over seeds of
      each experiment that trains, at the epochs as the runs count them, from 0.
    - `pruning/<series>/test_acc` (or `val_acc`), with `/lower` and `/upper`, the 95% interval over seeds: a fraction,
      at the sparsity in per cent as its step.
    - For Custom Scalars: a category for each group of experiments, and one for accuracy against sparsity.
    - `figures/<name>` as images and `report` as text.

    Args:
        results: A study.
        figures: PNG files of it.
        report_text: Markdown.

    Raises:
        OSError: If it cannot be written, or a figure cannot be read.
    """
    write_events(results.folder / "report", _events(results, figures, report_text))


def _events(results: Results, figures: Sequence["Figure"], report_text: str) -> Iterator[Event]:
    kind = accuracy_measure(results).removeprefix("final_")
    series = tradeoff(results)
    curves = list(_curves(results))
    yield layout(_layout(results, {event.summary.value[0].tag for event in curves}, series, kind))
    yield from curves
    for one in series:
        for point in one.points:
            step, accuracy = round(100 * point.sparsity), point.accuracy
            low = accuracy.mean if accuracy.low is None else accuracy.low
            high = accuracy.mean if accuracy.high is None else accuracy.high
            for tag, value in zip(_tags(one, kind), (accuracy.mean, low, high), strict=True):
                yield scalar(tag, value, step)
    for figure in figures:
        yield image(f"figures/{figure.path.stem}", figure.path.read_bytes())
    yield text("report", report_text)


def _curves(results: Results) -> Iterator[Event]:
    for experiment in results.plan.experiments:
        for role in _ROLES if experiment.train else ():
            if role == "sparsity" and not prunes(results, experiment.name):
                continue
            if curve := mean_curve(results, experiment.name, role):
                for epoch, value in zip(curve.epochs, curve.values, strict=True):
                    yield scalar(f"{experiment.name}/{role}", value, epoch)


def _layout(results: Results, tags: set[str], series: Sequence[Series], kind: str) -> Layout:
    categories = []
    margins = []
    for one in series:
        value, lower, upper = _tags(one, kind)
        content = MarginChartContent(series=[MarginChartContent.Series(value=value, lower=lower, upper=upper)])
        margins.append(Chart(title=one.label, margin=content))
    if margins:
        categories.append(Category(title="Accuracy against sparsity (% as step)", chart=margins))
    groups = dict.fromkeys(experiment.name.split("/")[0] for experiment in results.plan.experiments)
    for group in groups:
        charts = []
        for title, role in _CHARTS.items():
            pattern = rf"^{re.escape(group)}/(.+/)?{role}$"
            if any(re.match(pattern, tag) for tag in tags):
                charts.append(Chart(title=title, multiline=MultilineChartContent(tag=[pattern])))
        if charts:
            categories.append(Category(title=results.plan.groups.get(group, group), chart=charts))
    return Layout(category=categories)


def _tags(series: Series, kind: str) -> tuple[str, str, str]:
    """Tags of a value, and of the lower and upper end of its interval."""
    tag = f"pruning/{series.slug}/{kind}"
    return tag, f"{tag}/lower", f"{tag}/upper"
