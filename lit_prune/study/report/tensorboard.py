"""Write a run `report` for TensorBoard: mean curves, a layout of charts, the figures, and the text of the report."""

import re
import struct
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any

# none of these import torch or TensorFlow
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.plugins.custom_scalar import metadata as custom_scalar
from tensorboard.plugins.custom_scalar.layout_pb2 import (
    Category,
    Chart,
    Layout,
    MarginChartContent,
    MultilineChartContent,
)
from tensorboard.plugins.text import metadata as text_plugin
from tensorboard.summary.writer.record_writer import RecordWriter

from lit_prune.files.atomic import replacing
from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, prunes, tradeoff
from lit_prune.training.run_folder import EVENTS

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

_ROLES = ("train_loss", "val_loss", "train_acc", "val_acc", "sparsity")
_CHARTS = {"accuracy": "(train|val)_acc", "loss": "(train|val)_loss", "sparsity": "sparsity"}


def write_board(results: Results, figures: Sequence["Figure"], report_text: str) -> None:
    """Write a TensorBoard run named `report` into a study's folder, and remove the files of an earlier one.

    - `<experiment>/train_loss`, `val_loss`, `train_acc`, `val_acc`, and `sparsity` if the experiment prunes: means over
      seeds, for each experiment that trains. Steps are epochs, counted from 0 as in the TensorBoard files of the runs.
    - `pruning/<series>/test_acc` (`val_acc` if there are no tests): mean accuracy as a fraction. Tags that end in
      `/lower` and `/upper` hold the ends of the 95% interval. Steps are sparsities in per cent.
    - A layout for the Custom Scalars dashboard, with charts of accuracy against sparsity and of each group's curves.
    - `figures/<name>`: the figures as images. `report`: the report as text.

    Raises:
        OSError: If the run cannot be written or a figure cannot be read. An existing run is then unchanged.
    """
    folder = results.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.glob(f"{EVENTS}*"))
    now = time.time()
    # a new file name, because a running TensorBoard then reads the file, and replaces the points of the older one
    with replacing(folder / f"{EVENTS}{time.time_ns()}.report") as part, part.open("wb") as file:
        writer = RecordWriter(file)
        for event in chain([Event(file_version="brain.Event:2")], _events(results, figures, report_text)):
            event.wall_time = now
            writer.write(event.SerializeToString())
    for other in old:
        other.unlink()


def _events(results: Results, figures: Sequence["Figure"], report_text: str) -> Iterator[Event]:
    kind = accuracy_measure(results).removeprefix("final_")
    series = tradeoff(results)
    curves = list(_curves(results))
    layout = _layout(results, {event.summary.value[0].tag for event in curves}, series, kind)
    yield _text(custom_scalar.CONFIG_SUMMARY_TAG, layout.SerializeToString(), custom_scalar.create_summary_metadata())
    yield from curves
    for one in series:
        for point in one.points:
            for tag, value in zip(_tags(one, kind), (point.accuracy.mean, *point.accuracy.interval), strict=True):
                yield _event(round(100 * point.sparsity), tag=tag, simple_value=value)
    for figure in figures:
        png = figure.path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        yield _event(0, tag=f"figures/{figure.path.stem}", image=image)
    yield _text("report", report_text.encode(), text_plugin.create_summary_metadata("report", ""))


def _curves(results: Results) -> Iterator[Event]:
    for experiment in results.plan.experiments:
        for role in _ROLES if experiment.train else ():
            if role == "sparsity" and not prunes(results, experiment.name):
                continue
            for epoch, value in results.mean_curve(experiment.name, role).items():
                yield _event(epoch, tag=f"{experiment.name}/{role}", simple_value=value)


def _layout(results: Results, tags: set[str], series: Sequence[Series], kind: str) -> Layout:
    categories = []
    if series:
        charts = []
        for one in series:
            value, lower, upper = _tags(one, kind)
            margins = [MarginChartContent.Series(value=value, lower=lower, upper=upper)]
            charts.append(Chart(title=one.label, margin=MarginChartContent(series=margins)))
        categories.append(Category(title="Accuracy against sparsity (% as step)", chart=charts))
    for group in results.groups():
        patterns = {title: rf"^{re.escape(group)}/(.+/)?{role}$" for title, role in _CHARTS.items()}
        charts = [
            Chart(title=title, multiline=MultilineChartContent(tag=[pattern]))
            for title, pattern in patterns.items()
            if any(re.match(pattern, tag) for tag in tags)
        ]
        if charts:
            categories.append(Category(title=results.plan.groups.get(group, group), chart=charts))
    return Layout(category=categories)


def _tags(series: Series, kind: str) -> tuple[str, str, str]:
    """Return the tags for the mean accuracy of a series, and for the lower and upper end of the mean's interval."""
    tag = f"pruning/{series.slug}/{kind}"
    return tag, f"{tag}/lower", f"{tag}/upper"


def _event(step: int, **value: Any) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(**value)]))


def _text(tag: str, content: bytes, metadata: Any) -> Event:
    return _event(0, tag=tag, metadata=metadata, tensor=TensorProto(dtype="DT_STRING", string_val=[content]))
