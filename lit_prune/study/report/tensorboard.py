"""Write the report for TensorBoard: mean curves as runs, a layout of charts, the figures, and the text."""

import re
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
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

from lit_prune.study.results.results import Results
from lit_prune.study.results.tradeoff import Series, accuracy_measure, prunes, tradeoff
from lit_prune.training.run_folder import EVENTS

if TYPE_CHECKING:
    from lit_prune.study.report.figures import Figure

_CURVES = ("train_loss", "train_acc", "val_loss", "val_acc")
_SPARSITY = "sparsity/global"
_TRADEOFF = "vs-sparsity"  # sorts after `train` and `val`, so TensorBoard shows it below them
_ENDS = ("", "/lower", "/upper")  # suffixes of the tags for a mean and the ends of its interval


def write_board(results: Results, figures: Sequence["Figure"], report_text: str) -> None:
    """Write TensorBoard runs into the folder `report` of a study, and remove the files of an earlier report.

    - `report/<experiment>`, for example `report/task1-logits`, for each experiment that trains: means over seeds, under
      the tags of the runs themselves (by default `train/loss`, `train/acc`, `val/loss`, `val/acc`), and
      `sparsity/global` if the experiment prunes. Steps are epochs, counted from 0, as in the runs.
    - `report/vs-sparsity/<series>`: mean accuracy as a fraction, under the tag
      `vs-sparsity/test_acc` (`val_acc` if there are no tests), and under tags that end in `/lower` and
      `/upper` the ends of its 95% interval. Steps are sparsities in per cent.
    - `report`: a layout for the Custom Scalars dashboard; the figures as images, `figures/<name>`; the text, `report`.

    Raises:
        OSError: If a run cannot be written or a figure cannot be read. The earlier report is then unchanged.
    """
    folder = results.folder / "report"
    folder.mkdir(parents=True, exist_ok=True)
    old = list(folder.rglob(f"{EVENTS}*"))
    # a new file name, so that a running TensorBoard reads the new file and replaces the points of the old one
    name = f"{EVENTS}{time.time_ns()}.report"
    with tempfile.TemporaryDirectory(prefix=".report-", dir=results.folder) as scratch:
        runs = list(_runs(results, figures, report_text))
        for run, events in runs:
            _write(Path(scratch, run, name), events)
        for run, _ in runs:
            (folder / run).mkdir(parents=True, exist_ok=True)
            Path(scratch, run, name).replace(folder / run / name)
    for other in old:
        other.unlink()
    for empty in sorted((path for path in folder.rglob("*") if path.is_dir()), reverse=True):
        if not any(empty.iterdir()):
            empty.rmdir()


def _write(path: Path, events: Sequence[Event]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    now = time.time()
    with path.open("wb") as file:
        writer = RecordWriter(file)
        for event in chain([Event(file_version="brain.Event:2")], events):
            event.wall_time = now
            writer.write(event.SerializeToString())


def _runs(results: Results, figures: Sequence["Figure"], report_text: str) -> Iterator[tuple[str, list[Event]]]:
    """Yield each run of TensorBoard, such as the means of an experiment: its folder below `report`, and its events."""
    series = tradeoff(results)
    kind = accuracy_measure(results).removeprefix("final_")
    yield ".", list(_report_events(results, figures, report_text, f"{_TRADEOFF}/{kind}" if series else ""))
    flat = [experiment.name.replace("/", "-") for experiment in results.plan.experiments]
    for experiment, short in zip(results.plan.experiments, flat, strict=True):
        if experiment.train and (events := list(_curves(results, experiment.name))):
            yield short if flat.count(short) == 1 else experiment.name, events
    for one in series:
        yield f"{_TRADEOFF}/{one.slug.replace(' ', '')}", list(_series(one, f"{_TRADEOFF}/{kind}"))


def _report_events(
    results: Results, figures: Sequence["Figure"], report_text: str, tradeoff_tag: str
) -> Iterator[Event]:
    layout = _layout(results, tradeoff_tag).SerializeToString()
    yield _text(custom_scalar.CONFIG_SUMMARY_TAG, layout, custom_scalar.create_summary_metadata())
    for figure in figures:
        png = figure.path.read_bytes()
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png)
        yield _event(0, tag=f"figures/{figure.path.stem}", image=image)
    yield _text("report", report_text.encode(), text_plugin.create_summary_metadata("report", ""))


def _curves(results: Results, name: str) -> Iterator[Event]:
    tags = {role: results.plan.metrics[role] for role in _CURVES if role in results.plan.metrics}
    for role, tag in (tags | ({"sparsity": _SPARSITY} if prunes(results, name) else {})).items():
        for epoch, value in results.mean_curve(name, role).items():
            yield _event(epoch, tag=tag, simple_value=value)


def _series(series: Series, tag: str) -> Iterator[Event]:
    for point in series.points:
        for end, value in zip(_ENDS, (point.accuracy.mean, *point.accuracy.interval), strict=True):
            yield _event(round(100 * point.sparsity), tag=tag + end, simple_value=value)


def _layout(results: Results, tradeoff_tag: str) -> Layout:
    """Return a layout in which every chart shows all selected runs, each in its colour."""
    categories = []
    if tradeoff_tag:
        value, lower, upper = (tradeoff_tag + end for end in _ENDS)
        margin = MarginChartContent(series=[MarginChartContent.Series(value=value, lower=lower, upper=upper)])
        title = "Accuracy against sparsity: select the runs report/vs-sparsity/..."
        categories.append(Category(title=title, chart=[Chart(title="accuracy (step: sparsity in %)", margin=margin)]))
    metrics = results.plan.metrics
    tags = {
        "accuracy": [metrics[role] for role in ("train_acc", "val_acc") if role in metrics],
        "loss": [metrics[role] for role in ("train_loss", "val_loss") if role in metrics],
        "sparsity": [_SPARSITY],
    }
    charts = [
        Chart(title=title, multiline=MultilineChartContent(tag=[f"^{re.escape(tag)}$" for tag in found]))
        for title, found in tags.items()
        if found
    ]
    categories.append(Category(title="Training: select runs such as report/task4-finetuned-30", chart=charts))
    return Layout(category=categories)


def _event(step: int, **value: Any) -> Event:
    return Event(step=step, summary=Summary(value=[Summary.Value(**value)]))


def _text(tag: str, content: bytes, metadata: Any) -> Event:
    return _event(0, tag=tag, metadata=metadata, tensor=TensorProto(dtype="DT_STRING", string_val=[content]))
