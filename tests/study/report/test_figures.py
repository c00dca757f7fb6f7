"""The figures of a report."""

import io
import math
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.text import Text
from PIL import Image

from lit_prune.cli.figures import styled
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.report.figures import Figure, draw, drawings
from lit_prune.study.report.figures.drawing import Drawing
from lit_prune.study.report.figures.sparsity import separate_labels
from lit_prune.study.results.published import PUBLISHED
from lit_prune.study.results.results import Results, read_results
from lit_prune.study.results.tradeoff import find_baseline, tradeoff
from lit_prune.study.statistics import estimate
from tests.study.folders import SMALL, full_content, make_study

PRUNED = {"class_path": "GlobalL1Pruning", "init_args": {"amount": 0.6}}


def study(folder: Path, content=SMALL, **state) -> Results:
    make_study(folder, content, seed=int(np.random.default_rng().integers(1 << 30)), **state)
    return read_results(folder)


def built(results: Results) -> dict[str, Drawing]:
    with styled():
        return {drawing.name: drawing for drawing in drawings(results)}


def lines(axes, label: str) -> list[tuple[list[Any], list[Any]]]:
    found = [line for line in axes.get_lines() if line.get_label() == label]
    return [(list(line.get_xdata()), list(line.get_ydata())) for line in found]


def with_experiments(*experiments):
    return SMALL | {"experiments": [*SMALL["experiments"], *experiments]}


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> Results:
    return study(tmp_path_factory.mktemp("full"), full_content(5))


@pytest.fixture(scope="module")
def pictures(full) -> dict[str, Drawing]:
    return built(full)


@pytest.mark.gate
def test_the_full_study_draws_every_figure(full, tmp_path):
    figures = draw(full, tmp_path / "new" / "figures")
    assert [figure.path.stem for figure in figures] == [
        *(f"curves-{group}" for group in ("task1", "task2", "task4", "task5", "control")),
        "scores-task3",
        "accuracy-against-sparsity",
        "sparsity",
        "plateau",
        "layers",
    ]
    assert [figure.group for figure in figures] == ["task1", "task2", "task4", "task5", "control", "task3", *4 * [None]]
    for figure in figures:
        assert isinstance(figure, Figure)
        assert figure.title
        assert figure.caption.endswith(".")
        with Image.open(figure.path) as image:
            assert image.format == "PNG"
            assert 700 <= image.width <= 1100
            assert 200 <= image.height <= 1400
            assert image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
    assert sorted((tmp_path / "new" / "figures").iterdir()) == sorted(figure.path for figure in figures)


def test_every_panel_names_its_axes_with_units(pictures):
    units = ("(%)", "(nats per image)", "(% of weights that are zero)", "(percentage points)")
    for drawing in pictures.values():
        for place, axes in enumerate(drawing.canvas.axes):
            ylabel = axes.get_ylabel()
            named = [label.get_text() for label in axes.get_yticklabels()]  # layers or experiments
            first_of_row = place == 0 or drawing.name.startswith("curves")
            assert not first_of_row or ylabel.endswith(units) or (named and not ylabel)
        xlabels = {axes.get_xlabel() for axes in drawing.canvas.axes} - {""}
        assert xlabels
        assert all(label == "epochs trained" or label.endswith(units) for label in xlabels)


def shown_texts(canvas) -> list[Text]:
    """Return the texts that are drawn; ticks outside the limits of a panel exist, but are not drawn."""
    texts, ticks = [], set()
    for axes in canvas.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks |= set(axis.findobj(Text)) - {axis.label}
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    texts += [text for text in canvas.findobj(Text) if text not in ticks]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


def pruned_by(*amounts: float) -> dict[str, Any]:
    """Return a plan whose experiments prune these amounts: without training, with masks, and with masks removed."""
    experiments: list[dict[str, Any]] = [{"name": "task1/logits"}, {"name": "control/dense", "parent": "task1/logits"}]
    for amount in amounts:
        pruning = {"class_path": "GlobalL1Pruning", "init_args": {"amount": amount}}
        removal = {"class_path": "PruningRemoval", "init_args": {"epoch": 0}}
        for name, train, callbacks in (
            ("task3", False, [pruning]),
            ("task4", True, [pruning]),
            ("task5", True, [pruning, removal]),
        ):
            own = {"name": f"{name}/l1-{100 * amount:g}", "parent": "task1/logits", "train": train}
            experiments.append(own | {"overrides": {"trainer": {"callbacks+": callbacks}}})
    return SMALL | {"experiments": experiments, "claims": []}


@pytest.mark.gate
@pytest.mark.parametrize(
    ("content", "count"),
    [
        (full_content(5), 10),
        (full_content(120) | {"seeds": [0]}, 10),
        (load_plan("quick").as_dict(), 10),
        (pruned_by(0.3) | {"seeds": [0]}, 9),
        (pruned_by(0.1, 0.2, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98), 9),
    ],
)
def test_no_text_is_cut_off_overlaps_or_is_small(tmp_path, content, count):
    found = built(study(tmp_path, content))
    assert len(found) == count
    for drawing in found.values():
        drawing.canvas.savefig(io.BytesIO())
        canvas: Any = drawing.canvas.canvas
        renderer, whole = canvas.get_renderer(), drawing.canvas.bbox
        texts = shown_texts(drawing.canvas)
        # of the text alone, without its leader line
        boxes = [Text.get_window_extent(text, renderer) for text in texts]
        assert len(boxes) > 8, (drawing.name, len(boxes))
        assert min(float(text.get_fontsize()) for text in texts) >= 8
        for index, (box, text) in enumerate(zip(boxes, texts, strict=True)):
            assert whole.x0 <= box.x0 < box.x1 <= whole.x1, (drawing.name, text)
            assert whole.y0 <= box.y0 < box.y1 <= whole.y1, (drawing.name, text)
            overlapping = [
                other.get_text()
                for other, there in zip(texts[:index], boxes, strict=False)
                if box.padded(-1).overlaps(there.padded(-1))
            ]
            assert not overlapping, (drawing.name, text)


def test_curve_figures_show_each_seed_and_the_mean(tmp_path):
    results = study(tmp_path)
    drawing = built(results)["curves-task1"]
    loss, accuracy = drawing.canvas.axes[:2]
    assert loss.get_title(loc="left") == "logits"
    for axes, role, scale in ((loss, "loss", 1), (accuracy, "acc", 100)):
        for half, label in (("train", "training"), ("val", "validation")):
            runs = [list(run.curves[f"{half}_{role}"].values()) for run in results.of("task1/logits")]
            for seed, values in enumerate(runs):
                assert lines(axes, f"{label}, {seed}") == [([1, 2, 3, 4], [scale * v for v in values])]
            ((x, y),) = lines(axes, f"{label}, mean")
            assert x == [1, 2, 3, 4]
            assert y == pytest.approx([scale * sum(v) / 3 for v in zip(*runs, strict=True)])
    # the other experiment has other losses, and the same axes
    assert [a.get_ylim() for a in drawing.canvas.axes[2:]] == [loss.get_ylim(), accuracy.get_ylim()]


def test_one_seed_is_drawn_as_one_line(tmp_path):
    axes = built(study(tmp_path, SMALL | {"seeds": [7]}))["curves-task1"].canvas.axes[0]
    assert [line.get_label() for line in axes.get_lines()] == ["training, mean", "validation, mean"]


def test_one_seed_is_not_called_a_mean(tmp_path):
    found = built(study(tmp_path, SMALL | {"seeds": [7]}))
    for drawing in found.values():
        drawing.canvas.savefig(io.BytesIO())
        texts = [drawing.caption, *(text.get_text() for text in shown_texts(drawing.canvas))]
        assert not [text for text in texts if re.search("mean(s)? over seeds|interval", text)], drawing.name
    container: Any = found["accuracy-against-sparsity"].canvas.axes[0].containers[0]
    assert not container.has_yerr


def test_a_diverged_experiment_has_no_mean_anywhere(tmp_path):
    results = study(tmp_path, diverged={("task1/softmax", 1), ("task4/finetuned-10", 0), ("task3/prune-10", 2)})
    found = built(results)
    task1 = found["curves-task1"].canvas.axes
    assert [axes.get_title(loc="left") for axes in task1[::2]] == ["logits", "softmax: diverged (seed 1)"]
    assert lines(task1[0], "validation, mean")
    assert not lines(task1[2], "validation, mean")
    assert len(lines(task1[2], "validation, 0")[0][1]) == 4
    assert len(lines(task1[2], "validation, 1")[0][1]) == 1  # the epochs before it diverged
    assert "scores-task3" not in found  # its only experiment diverged
    assert "accuracy-against-sparsity" not in found
    assert [line.get_label() for line in found["sparsity"].canvas.axes[0].get_lines()] == ["task5/finetuned-10"]


def test_score_figures_show_other_experiments_next_to_a_diverged_one(tmp_path):
    content = with_experiments(
        {
            "name": "task3/prune-60",
            "parent": "task1/logits",
            "train": False,
            "overrides": {"trainer": {"callbacks+": [PRUNED]}},
        }
    )
    results = study(tmp_path, content, diverged={("task3/prune-10", 2)})
    (axes,) = built(results)["scores-task3"].canvas.axes
    assert [text.get_text() for text in axes.texts] == ["diverged (seed 2)"]
    mean = estimate(results.values("task3/prune-60", "final_test_acc").values())
    parent = estimate(results.values("task1/logits", "final_test_acc").values())
    assert mean is not None
    assert parent is not None
    assert lines(axes, "task3/prune-60") == [([pytest.approx(100 * mean.mean)], [1])]
    assert lines(axes, "task1/logits, mean")[0][0] == pytest.approx([100 * parent.mean] * 2)


def test_incomplete_runs_are_left_out_and_counted(tmp_path):
    results = study(
        tmp_path, missing={("task1/logits", 0)}, unfinished={("task1/softmax", 1)}, failed={("task1/softmax", 2)}
    )
    axes = built(results)["curves-task1"].canvas.axes
    assert [a.get_title(loc="left") for a in axes[::2]] == ["logits: 2 of 3 seeds", "softmax: 1 of 3 seeds"]
    assert not lines(axes[2], "validation, 1")
    assert lines(axes[2], "validation, mean")[0][1] == list(results.of("task1/softmax")[0].curves["val_loss"].values())


def test_sparsity_is_drawn_only_for_experiments_that_prune(full, pictures):
    drawing = pictures["sparsity"]
    shown = {line.get_label() for axes in drawing.canvas.axes for line in axes.get_lines()}
    expected = {e.name for e in full.plan.experiments if e.train and "Pruning" in str(e.overrides)}
    assert shown == expected
    assert len(shown) == 20
    assert not shown & {"control/dense", "task1/logits", "task2/freeze-30", "control/frozen-batch-norm"}
    (axes,) = (axes for axes in drawing.canvas.axes if axes.get_title(loc="left") == "task5")
    curve = full.mean_curve("task5/initial-20", "sparsity")
    start = estimate(full.values("task5/initial-20", "sparsity_start").values())
    assert start is not None
    assert start.mean == pytest.approx(0.2, abs=1e-6)
    values = [100 * start.mean, *(100 * value for value in curve.values())]
    assert lines(axes, "task5/initial-20") == [([0, 1, 2, 3, 4, 5], values)]
    assert {line.get_drawstyle() for line in axes.get_lines()} == {"steps-pre"}  # the change of an epoch is no ramp


def test_accuracy_differences_are_paired_by_seed(full, pictures):
    series = {one.slug: one for one in tradeoff(full)}
    assert {slug: [point.experiment for point in one.points] for slug, one in series.items()} == {
        "l1-not-trained": [f"task3/prune-{n}" for n in (10, 20, 30)],
        "l1": [*(f"task4/finetuned-{n}" for n in (10, 20, 30)), *(f"control/l1-{n}" for n in (50, 80, 90, 95, 98))],
        "l1-from-initial": [f"task4/initial-{n}" for n in (10, 20, 30)],
        "random": [f"control/random-{n}" for n in (10, 20, 30)],
    }
    assert {slug: {point.dense for point in one.points} for slug, one in series.items()} == {
        "l1-not-trained": {"task1/logits"},
        "l1": {"control/dense"},
        "l1-from-initial": {"task1/logits"},
        "random": {"control/dense"},
    }
    values, dense = (full.values(name, "final_test_acc") for name in ("control/l1-90", "control/dense"))
    point = next(point for point in series["l1"].points if point.experiment == "control/l1-90")
    assert point.difference == estimate(values[seed] - dense[seed] for seed in (0, 1, 2))
    axes = pictures["accuracy-against-sparsity"].canvas.axes[0]
    container = next(c for c in axes.containers if c.get_label() == "L1 pruning, fine-tuned")
    drawn = container.lines[0]
    assert drawn is not None
    assert list(drawn.get_ydata()) == pytest.approx(
        [100 * point.difference.mean for point in series["l1"].points if point.difference]
    )
    # markers at the same sparsity are moved apart a little
    assert list(drawn.get_xdata()) == pytest.approx([10, 20, 30, 50, 80, 90, 95, 98], abs=2)
    bars = container.lines[2][0].get_segments()
    low, high = bars[0][:, 1]
    first = series["l1"].points[0].difference
    assert first is not None
    assert (low, high) == pytest.approx((100 * (first.low or 0), 100 * (first.high or 0)))


@pytest.mark.parametrize(("amounts", "left"), [((0.3, 0.9), -2), ((0.8, 0.9, 0.95), 70)])
def test_the_sparsity_axis_starts_below_the_lowest_sparsity(tmp_path, amounts, left):
    drawing = built(study(tmp_path, pruned_by(*amounts)))["accuracy-against-sparsity"]
    assert {axes.get_xlim() for axes in drawing.canvas.axes} == {(left, 102)}


def test_published_curves_are_the_papers_minus_dense_accuracy(pictures):
    table = {("ResNet-20", "one-shot, fine-tuned"): [0, -0.26, -1.49, -4.74]}
    found = {(curve.network, curve.method): curve for curve in PUBLISHED}
    assert len(found) == 4
    for key, differences in table.items():
        assert found[key].differences == pytest.approx(differences)
    axes = pictures["accuracy-against-sparsity"].canvas.axes[0]
    drawn = [list(line.get_ydata()) for line in axes.get_lines() if len(line.get_xdata()) == 4]
    for curve in PUBLISHED:
        assert list(curve.differences) in drawn
        assert len(curve.sparsity) == len(curve.accuracy)


def test_published_curves_are_drawn_only_for_cifar10(tmp_path, pictures):
    drawn = built(study(tmp_path, with_experiments()))["accuracy-against-sparsity"]
    assert "Renda" not in drawn.caption
    assert not [line for line in drawn.canvas.axes[0].get_lines() if np.size(line.get_xdata()) == 4]
    assert "Renda" in pictures["accuracy-against-sparsity"].caption


def test_the_dense_experiment_is_found_in_custom_studies(tmp_path):
    mine = {"name": "mine", "parent": "task1/softmax"}
    longer = {"name": "longer", "overrides": {"trainer": {"max_epochs": 99}}}
    results = study(tmp_path, with_experiments(mine, mine | {"name": "tested", "train": False}, longer))
    plan = results.plan
    assert find_baseline(results, plan["task4/finetuned-10"]) is None  # its parent trained for fewer epochs
    assert find_baseline(results, plan["task1/softmax"]) == "task1/logits"  # same weights, the study's own settings
    assert find_baseline(results, plan["task1/logits"]) is None  # no other experiment starts the same way
    assert find_baseline(results, plan["mine"]) is None
    assert find_baseline(results, plan["tested"]) == "task1/softmax"
    assert find_baseline(results, plan["longer"]) is None  # no dense experiment trains as long


def test_a_dense_experiment_may_train_longer_than_the_others(tmp_path):
    longer = {"name": "longer", "overrides": {"trainer": {"max_epochs": 99}}}
    pruning = {"class_path": "GlobalL1Pruning", "init_args": {"amount": 0.3}}
    pruned = {"name": "pruned", "overrides": {"trainer": {"max_epochs": 99, "callbacks+": [pruning]}}}
    slower = {"name": "slower", "overrides": {"trainer": {"max_epochs": 99}, "model": {"optimizer": {"lr": 0.1}}}}
    results = study(tmp_path, with_experiments(slower, longer, pruned))
    assert find_baseline(results, results.plan["pruned"]) == "longer"


def test_custom_callbacks_get_their_own_series(tmp_path):
    mine = {"class_path": "my.code.MyPruning", "init_args": {"amount": 0.4}}
    content = with_experiments(
        {"name": "x/mine", "parent": "task1/logits", "overrides": {"trainer": {"callbacks+": [mine]}}}
    )
    series = {one.label: one for one in tradeoff(study(tmp_path, content))}
    assert [point.experiment for point in series["MyPruning, fine-tuned"].points] == ["x/mine"]
    assert [point.experiment for point in series["L1 pruning, fine-tuned"].points] == ["task4/finetuned-10"]
    # and so does each method of pruning
    ways: list[dict[str, Any]] = [{}, {"end_epoch": 2}, {"rewind_to": 0}, {"exclude": ["head"]}, {"schedule": "once"}]
    own = [PRUNED | {"init_args": {"amount": 0.4} | way} for way in ways]
    content = with_experiments(
        *({"name": f"y/{n}", "overrides": {"trainer": {"callbacks+": [one]}}} for n, one in enumerate(own))
    )
    labels = {one.label for one in tradeoff(study(tmp_path / "ways", content))}
    ways_said = ("", " (gradual)", " (rewind_to 0)", " (exclude ['head'])", " (once)")
    assert {f"L1 pruning{way}, from initial weights" for way in ways_said} <= labels
    # and so does each criterion and allocation
    made = {"class_path": "my.code.Score", "init_args": {"batches": 4, "seed": 3}}
    layers = {f"backbone.layer{n}.0.conv1": 0.5 for n in range(30)}
    long = ", ".join(f"{name} {fraction}" for name, fraction in layers.items())
    parts: list[dict[str, Any]] = [{"criterion": made}, {"criterion": made | {"init_args": {"batches": 8}}}]
    parts += [{"allocation": {"*.a/b": 0.5}}, {"allocation": layers}]
    callbacks = [{"class_path": "Pruning", "init_args": {"amount": 0.4, **part}} for part in parts]
    content = with_experiments(
        *({"name": f"x/{n}", "overrides": {"trainer": {"callbacks+": [one]}}} for n, one in enumerate(callbacks))
    )
    found = {one.label: one.slug for one in tradeoff(study(tmp_path / "parts", content)) if "Pruning-" in one.slug}
    assert found.keys() == {
        f"Pruning ({text}), from initial weights" for text in ("Score batches 4", "Score batches 8", "*.a/b 0.5", long)
    }
    assert len(set(found.values())) == len(found)
    assert all(len(slug) < 100 and not set(slug) & set("*/ ") for slug in found.values())
    # experiments that remove their masks are in no series
    assert "task5/finetuned-10" not in {p.experiment for one in series.values() for p in one.points}


def test_other_arguments_of_pruning_make_other_series(tmp_path):
    amounts = [{"amount": 0.4}, {"amount": 0.5}, {"amount": 0.4, "criterion": "random", "allocation": "erk"}]
    experiments = [
        {"name": f"x/{n}", "overrides": {"trainer": {"callbacks+": [{"class_path": "Pruning", "init_args": given}]}}}
        for n, given in enumerate(amounts)
    ]
    series = {one.label: one for one in tradeoff(study(tmp_path, with_experiments(*experiments)))}
    assert [p.experiment for p in series["Pruning, from initial weights"].points] == ["x/0", "x/1"]
    assert [p.experiment for p in series["Pruning (random, erk), from initial weights"].points] == ["x/2"]


def test_layer_figure_shows_the_last_epoch(full, pictures):
    (axes,) = pictures["layers"].canvas.axes
    runs = full.of("control/l1-50")
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == list(runs[0].layers)
    shown = {line.get_label().split(" ")[0]: line for line in axes.get_lines()}
    assert list(shown) == [p.experiment for s in tradeoff(full) if s.slug == "l1" for p in s.points]
    for rank, name in zip(shown["control/l1-50"].get_ydata(), names, strict=True):
        assert names[int(rank)] == name
        x = shown["control/l1-50"].get_xdata()[int(rank)]
        assert x == pytest.approx(100 * sum(run.layers[name][3] for run in runs) / 3)


def test_plateau_figure_shows_the_weights_without_a_gradient(full, pictures):
    panels = pictures["plateau"].canvas.axes
    names = [e.name for e in full.plan.experiments if e.name.startswith("task5/")]
    assert len(panels) == len(names) == 6
    for axes, name in zip(panels, names, strict=True):
        level = estimate(full.values(name, "untouched_pruned").values())
        end = estimate(full.values(name, "sparsity_end").values())
        assert level is not None
        assert end is not None
        (dashed,) = (line for line in axes.get_lines() if line.get_linestyle() == "--")
        assert list(dashed.get_ydata()) == pytest.approx([100 * level.mean] * 2)
        title = axes.get_title(loc="left")
        assert title.startswith(name)
        assert f"{100 * level.mean:.3f}%" in title
        assert f"{100 * end.mean:.3f}%" in title
        start = estimate(full.values(name, "sparsity_start").values())
        assert start is not None
        ((x, y),) = lines(axes, "mean")
        # the fall is in the picture: from the pruned fraction, before training, on an axis from 0
        assert (x[0], y[0]) == (0, pytest.approx(100 * start.mean))
        assert y[-1] == pytest.approx(100 * end.mean)
        low, high = axes.get_ylim()
        assert low == 0
        assert 100 * start.mean < high < 1.2 * 100 * start.mean


def test_a_start_that_was_not_recorded_is_not_drawn(tmp_path):
    (axes,) = built(study(tmp_path, without=("sparsity/ever_pruned",)))["plateau"].canvas.axes
    assert lines(axes, "mean")[0][0] == [1, 2, 3, 4]
    assert "start not recorded" in axes.get_title(loc="left")


@pytest.mark.parametrize("status", ["missing", "unfinished", "failed", "diverged"])
def test_a_study_without_complete_runs_can_be_drawn(tmp_path, status):
    everything = {(e["name"], seed) for e in SMALL["experiments"] for seed in SMALL["seeds"]}
    results = study(tmp_path, **{status: everything})
    names = [figure.path.stem for figure in draw(results, tmp_path / "figures")]
    # diverged runs are drawn seed by seed, up to where they diverged
    assert names == (["curves-task1", "curves-task4", "curves-task5"] if status == "diverged" else [])
    assert (tmp_path / "figures").exists() == bool(names)


def test_absent_metrics_are_not_drawn(tmp_path):
    content = SMALL | {"metrics": {"train_loss": "train/loss", "val_loss": "val/loss"}}
    without = ("gradient/untouched", "gradient/untouched_pruned", "sparsity/ever_pruned", "sparsity/global")
    results = study(tmp_path, content, without=without)
    found = built(results)
    assert list(found) == ["curves-task1", "curves-task4", "curves-task5"]
    assert {axes.get_ylabel() for axes in found["curves-task1"].canvas.axes} == {"loss (nats per image)"}


def test_names_are_not_read_as_formulas(tmp_path):
    results = study(tmp_path, SMALL | {"groups": {"task1": r"100% of $\frac{1}$ 中文 <b>"}})
    figures = draw(results, tmp_path / "figures")
    assert figures[0].title.startswith(r"100% of $\frac{1}$")


def test_a_large_group_is_split_into_several_figures(tmp_path):
    content = SMALL | {"seeds": [0], "claims": [], "experiments": [{"name": f"many/e{n}"} for n in range(25)]}
    found = built(study(tmp_path, content))
    assert [len(found[name].canvas.axes) for name in ("curves-many-1", "curves-many-2")] == [40, 10]


@pytest.mark.gate
def test_matplotlibrc_changes_nothing(tmp_path):
    results = study(tmp_path / "study")
    plain = [figure.path.read_bytes() for figure in draw(results, tmp_path / "plain")]
    with mpl.rc_context({"figure.facecolor": "black", "font.size": 30, "savefig.bbox": "tight"}):
        changed = [figure.path.read_bytes() for figure in draw(results, tmp_path / "changed")]
        assert mpl.rcParams["font.size"] == 30
    assert plain == changed
    assert len(plain) > 5


def test_labels_are_moved_apart_only_as_far_as_needed():
    rng = np.random.default_rng()
    for _ in range(200):
        wanted = sorted(rng.uniform(0, 10, size=rng.integers(1, 8)))
        places = separate_labels(wanted, 1.0, 0.0, 10.0)
        assert all(b - a >= 1 - 1e-9 for a, b in pairwise(places))
        assert places[0] >= 0.5 - 1e-9
        assert places[-1] <= 9.5 + 1e-9
    assert separate_labels([2.0, 5.0, 5.0], 1.0, 0.0, 10.0) == [2.0, 4.5, 5.5]
    assert separate_labels([0.0, 9.9], 1.0, 0.0, 10.0) == [0.5, 9.5]


def test_a_mean_curve_covers_the_epochs_that_all_seeds_have(tmp_path):
    results = study(tmp_path)
    short = tmp_path / "task1/logits/seed=1"
    rows = (short / "metrics.csv").read_text().splitlines()
    (short / "metrics.csv").write_text("\n".join(rows[:-2]) + "\n")
    result = (short / "result.json").read_text().replace('"epochs": 4', '"epochs": 3')
    (short / "result.json").write_text(result)
    again = read_results(tmp_path)
    assert [run.status for run in again.of("task1/logits")] == ["complete"] * 3
    curve, whole = again.mean_curve("task1/logits", "val_acc"), results.mean_curve("task1/logits", "val_acc")
    assert (list(curve), list(whole)) == ([0, 1, 2], [0, 1, 2, 3])
    assert list(curve.values()) == list(whole.values())[:3]
    assert all(math.isfinite(value) for value in curve.values())
