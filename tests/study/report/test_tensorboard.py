"""The runs in `report`, as TensorBoard reads them."""

import re
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from werkzeug.test import Client

from lit_prune.study.report.figures import draw
from lit_prune.study.report.tensorboard import write_board
from lit_prune.study.results.results import Results, read_results
from lit_prune.study.results.tradeoff import tradeoff
from lit_prune.study.statistics import estimate
from tests.study.folders import SMALL, full_content, make_study

pytestmark = pytest.mark.gate  # a full study takes seconds to draw

REPORT = "# Results\n\n| a | b |\n|---|---|\n| 1 | **2** |\n"
ALL = {"scalars": 0, "histograms": 0, "images": 0, "tensors": 0}


def accumulated(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder), size_guidance=ALL)
    accumulator.Reload()
    return accumulator


def points(accumulator: EventAccumulator, tag: str) -> list[tuple[int, Any]]:
    return [(event.step, event.value) for event in accumulator.Scalars(tag)]


def layout_of(accumulator: EventAccumulator) -> Layout:
    (event,) = accumulator.Tensors("custom_scalars__config__")
    return Layout.FromString(event.tensor_proto.string_val[0])


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> SimpleNamespace:
    """The full study with its run `report`, and the events that TensorBoard reads from it."""
    folder = tmp_path_factory.mktemp("full")
    make_study(folder, full_content(3))
    results = read_results(folder)
    figures = draw(results, folder / "figures")
    write_board(results, figures, REPORT)
    return SimpleNamespace(results=results, figures=figures, events=accumulated(folder / "report"))


@pytest.fixture(scope="module")
def web(board) -> Client:
    """A client of TensorBoard's HTTP interface that needs no port."""
    with warnings.catch_warnings():
        # from html5lib, which is part of TensorBoard
        warnings.filterwarnings("ignore", message="html5lib's sanitizer is deprecated", category=DeprecationWarning)
        from tensorboard import default, program
        from tensorboard.backend import application
        from tensorboard.backend.event_processing.data_ingester import LocalDataIngester
    tensorboard = program.TensorBoard(plugins=default.get_plugins())
    argv = ["--logdir", str(board.results.folder), "--reload_interval", "0", "--reload_task", "blocking"]
    tensorboard.configure(argv=["tensorboard", *argv])
    ingester = LocalDataIngester(tensorboard.flags)
    ingester.start()
    app = application.TensorBoardWSGIApp(
        tensorboard.flags,
        tensorboard.plugin_loaders,
        ingester.data_provider,
        deprecated_multiplexer=ingester.deprecated_multiplexer,
    )
    return Client(app)


def answer(web: Client, path: str, **query: Any) -> Any:
    response = web.get(path, query_string=query)
    assert response.status_code == 200, response.text
    return response.json


def read(board: SimpleNamespace, run: str) -> EventAccumulator:
    return accumulated(board.results.folder / "report" / run)


def test_curves_are_means_over_seeds_at_their_epochs(board):
    results: Results = board.results
    for name in ("task1/logits", "control/l1-50"):
        events = read(board, name.replace("/", "-"))
        for role in ("train_loss", "val_loss", "train_acc", "val_acc"):
            curve = results.mean_curve(name, role)
            assert list(curve) == [0, 1, 2]
            # under the tag of the runs' own curves, so that TensorBoard draws both in one chart
            assert points(events, results.plan.metrics[role]) == [
                (epoch, pytest.approx(value, rel=1e-6)) for epoch, value in curve.items()
            ]
    assert points(events, "sparsity/global") == [(epoch, pytest.approx(0.5, abs=1e-6)) for epoch in range(3)]
    # no sparsity without pruning, no curves without training
    assert set(read(board, "task1-logits").Tags()["scalars"]) == {"train/loss", "val/loss", "train/acc", "val/acc"}
    folders = {path.name for path in (results.folder / "report").iterdir() if path.is_dir()}
    trained = {e.name.replace("/", "-") for e in results.plan.experiments if e.train}
    assert len(trained) == 28
    assert folders == trained | {"vs-sparsity"}


def test_accuracy_against_sparsity_has_margins(board):
    for slug, steps in (("l1", [10, 20, 30, 50, 80, 90, 95, 98]), ("random", [10, 20, 30])):
        events = read(board, f"vs-sparsity/{slug}")
        found = [points(events, f"vs-sparsity/test_acc{end}") for end in ("", "/lower", "/upper")]
        assert [[step for step, _ in one] for one in found] == [steps] * 3
    values = board.results.values("control/random-20", "final_test_acc").values()
    mean = estimate(values)
    assert mean is not None
    assert [one[1][1] for one in found] == pytest.approx([mean.mean, mean.low, mean.high])


def test_with_one_seed_the_margin_has_no_width(tmp_path):
    make_study(tmp_path, SMALL | {"seeds": [3]})
    write_board(read_results(tmp_path), [], REPORT)
    events = accumulated(tmp_path / "report" / "vs-sparsity" / "l1")
    found = [points(events, f"vs-sparsity/test_acc{end}") for end in ("", "/lower", "/upper")]
    assert found[0] == found[1] == found[2]
    assert [step for step, _ in found[0]] == [10]


def test_the_layout_shows_tags_that_the_runs_have(board):
    tradeoff_category, training = layout_of(board.events).category
    assert tradeoff_category.title.startswith("Accuracy against sparsity")
    (chart,) = tradeoff_category.chart  # one chart for all series
    (margin,) = chart.margin.series
    for one in tradeoff(board.results):
        tags = read(board, f"vs-sparsity/{one.slug}").Tags()["scalars"]
        assert set(tags) == {margin.value, margin.lower, margin.upper}
    tags = read(board, "task4-initial-30").Tags()["scalars"]
    shown = {chart.title: [re.compile(tag) for tag in chart.multiline.tag] for chart in training.chart}
    found = {title: [tag for tag in tags if any(p.match(tag) for p in patterns)] for title, patterns in shown.items()}
    assert {title: sorted(tags) for title, tags in found.items()} == {
        "accuracy": ["train/acc", "val/acc"],
        "loss": ["train/loss", "val/loss"],
        "sparsity": ["sparsity/global"],
    }


def test_experiments_with_similar_names_do_not_share_a_run(tmp_path):
    experiments = [{"name": "a.b"}, {"name": "a/b"}, {"name": "a-b"}, {"name": "c/d/e"}]
    make_study(tmp_path, SMALL | {"experiments": experiments, "claims": [], "groups": {}})
    write_board(read_results(tmp_path), [], REPORT)
    runs = {str(path.parent.relative_to(tmp_path / "report")) for path in (tmp_path / "report").rglob("events*")}
    assert runs == {".", "a.b", "a/b", "a-b", "c-d-e"}


def test_figures_and_text_are_stored_unchanged(board):
    assert board.events.Tags()["images"] == [f"figures/{figure.path.stem}" for figure in board.figures]
    assert len(board.figures) == 10
    for figure in board.figures:
        (image,) = board.events.Images(f"figures/{figure.path.stem}")
        assert image.encoded_image_string == figure.path.read_bytes()
        assert image.width > 700
    (text,) = board.events.Tensors("report")
    assert text.tensor_proto.string_val[0].decode() == REPORT


def test_writing_again_replaces_the_events(tmp_path):
    make_study(tmp_path)
    (tmp_path / "report").mkdir()
    other = tmp_path / "report" / "notes.txt"
    other.write_text("mine")
    write_board(read_results(tmp_path), [], "old")
    gone = tmp_path / "report" / "gone"  # the run of an experiment that is no longer in the plan
    gone.mkdir()
    (gone / "events.out.tfevents.1.report").touch()
    write_board(read_results(tmp_path), [], "new")
    assert len(list((tmp_path / "report").glob("events*"))) == 1
    assert not gone.exists()
    assert not list(tmp_path.glob(".report*"))
    assert other.read_text() == "mine"
    reader = accumulated(tmp_path / "report" / "task1-logits")
    assert [step for step, _ in points(reader, "val/acc")] == [0, 1, 2, 3]
    reader = accumulated(tmp_path / "report")
    (text,) = reader.Tensors("report")
    assert text.tensor_proto.string_val[0] == b"new"


def test_a_diverged_experiment_has_no_curve(tmp_path):
    make_study(tmp_path, diverged={("task1/softmax", 2), ("task4/finetuned-10", 0)})
    write_board(read_results(tmp_path), [], REPORT)
    runs = {path.name for path in (tmp_path / "report").iterdir() if path.is_dir()}
    assert runs == {"task1-logits", "task5-finetuned-10", "vs-sparsity"}
    assert [path.name for path in (tmp_path / "report/vs-sparsity").iterdir()] == ["l1-not-trained"]


@pytest.mark.parametrize("status", ["missing", "unfinished", "failed", "diverged"])
def test_a_study_without_complete_runs_has_the_report_as_text(tmp_path, status):
    everything = {(e["name"], seed) for e in SMALL["experiments"] for seed in SMALL["seeds"]}
    state: Any = {status: everything}
    make_study(tmp_path, **state)
    write_board(read_results(tmp_path), [], REPORT)
    events = accumulated(tmp_path / "report")
    assert events.Tags()["scalars"] == []
    assert "report" in events.Tags()["tensors"]


def test_tensorboard_serves_the_curves(board, web):
    runs = answer(web, "/data/runs")
    assert {"report", "report/task1-logits", "report/vs-sparsity/l1"} < set(runs)
    assert all(run == "report" or run.startswith("report/") for run in runs)
    served = answer(web, "/data/plugin/scalars/scalars", run="report/task4-initial-30", tag="val/acc")
    assert [(step, value) for _, step, value in served] == points(read(board, "task4-initial-30"), "val/acc")


def test_tensorboard_serves_the_charts(board, web):
    first, training = answer(web, "/data/plugin/custom_scalars/layout")["category"]
    for chart in training["chart"]:
        for pattern in chart["multiline"]["tag"]:
            query = {"run": "report/task4-initial-30", "tag": pattern}
            found = answer(web, "/data/plugin/custom_scalars/scalars", **query)
            assert found["regex_valid"] is True
            assert found["tag_to_events"]
    for tag in first["chart"][0]["margin"]["series"][0].values():
        assert answer(web, "/data/plugin/scalars/scalars", run="report/vs-sparsity/l1", tag=tag)


def test_tensorboard_serves_figures_and_text(board, web):
    tags = answer(web, "/data/plugin/images/tags")["report"]
    assert set(tags) == {f"figures/{figure.path.stem}" for figure in board.figures}
    (image,) = answer(web, "/data/plugin/images/images", run="report", tag="figures/plateau", sample=0)
    response = web.get(f"/data/plugin/images/individualImage?{image['query']}")
    assert response.data == (board.results.folder / "figures" / "plateau.png").read_bytes()
    assert answer(web, "/data/plugin/text/tags") == {"report": ["report"]}
    (text,) = answer(web, "/data/plugin/text/text", run="report", tag="report")
    assert "<strong>2</strong>" in text["text"]
    assert "<table>" in text["text"]


def test_figures_and_board_need_neither_torch_nor_tensorflow(tmp_path):
    code = (
        "import sys, lit_prune.study.report.tensorboard, lit_prune.study.report.figures\n"
        "heavy = {'torch', 'lightning', 'torchvision', 'tensorflow', 'scipy.stats', 'matplotlib.pyplot'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "[]\n"
