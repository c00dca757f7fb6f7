"""`lit-prune sensitivity`: each score equals that of a pruned network, and an interrupted command continues."""

import contextlib
import csv
import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from lit_prune.errors import InputError
from lit_prune.functional import weight_layers
from lit_prune.trained.scoring import Score, score
from lit_prune.trained.sensitivity.figure import draw_map
from lit_prune.trained.sensitivity.measure import measure, prune_temporarily
from lit_prune.trained.sensitivity.measurements import Measurements, fingerprint
from lit_prune.trained.sensitivity.result import Sensitivity
from lit_prune.trained.sensitivity.text import format_json, format_table

SMALL = "--model=tests.training.small.SmallNet"
AMOUNTS = ["--amounts", "0.9", "0.5"]
ABOUT = {"network": "Net", "weights": "w", "split": "val", "images": "i"}


@pytest.fixture
def count(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The measured accuracies, in order. No heat map is drawn, because that takes longer."""
    measured: list[float] = []

    def counted(*args: Any) -> Score:
        found = score(*args)
        measured.append(found.accuracy)
        return found

    monkeypatch.setattr("lit_prune.trained.sensitivity.command.score", counted)
    monkeypatch.setattr("lit_prune.trained.sensitivity.figure.draw_map", lambda *_: None)
    return measured


def make_result(**changes: list[int]) -> Sensitivity:
    """A result in which pruning changes the number of correct images, of 100, by these numbers."""
    scores = {name: [Score(50 + change, 100) for change in values] for name, values in changes.items()}
    sizes = {name: 1000 if name.startswith("big") else 10 for name in changes}
    amounts = [0.25, 0.5, 0.75, 0.9][: len(next(iter(changes.values())))]
    return Sensitivity("x.ckpt", "val", Score(50, 100), sizes, amounts, scores)


def test_each_score_is_that_of_the_network_with_one_layer_pruned(run, foreign, count):
    images = ["--data.source=synthetic", "--data.val_size=300"]
    answer = run("sensitivity", str(foreign), SMALL, "--amounts", "0.9", "0.5", *images, "--format=csv")
    assert answer.status == 0, answer.err
    rows = list(csv.DictReader(io.StringIO(answer.out)))
    assert [(row["layer"], row["amount"]) for row in rows] == [
        (name, amount) for name in ("first", "second", "head") for amount in ("0.5", "0.9")
    ]
    assert len(count) == 7
    base, *others = count
    assert len(set(count)) > 3
    for row, found in zip(rows, others, strict=True):
        assert float(row["accuracy"]) == found
        assert float(row["change_points"]) == pytest.approx(100 * (found - base), abs=1e-5)
    # `prune` gives the same scores
    for row, found in list(zip(rows, others, strict=True))[3:4]:
        argv = ["--layers", row["layer"], f"--amount={row['amount']}", "--output=one.ckpt", "--split=val", *images]
        pruned = run("prune", str(foreign), SMALL, *argv).out
        assert f"on 300 images: {base:.2%} before, {found:.2%} after" in pruned


def test_the_heat_map_is_drawn(run, foreign):
    answer = run("sensitivity", str(foreign), SMALL, *AMOUNTS, "--output=map.png", "--tolerance=100")
    assert answer.status == 0, answer.err
    assert sorted(path.name for path in Path().iterdir()) == ["map.jsonl", "map.png"]
    with Image.open("map.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    assert len(pixels) > 50_000
    assert len(np.unique(pixels, axis=0)) > 20
    lines = answer.out.splitlines()
    assert lines[0].startswith(f"{foreign}: ")
    assert lines[3].split() == ["layer", "weights", "50%", "90%", "safe"]
    assert [line.split()[-1] for line in lines[5:8]] == ["0.9"] * 3
    assert (
        "Suggestion for global pruning of all these layers: max_layer_sparsity=0.9, the largest of these amounts, "
        "which is safe for every layer." in lines
    )
    assert lines[-1] == "written: map.png, and the measurements in map.jsonl"


def test_known_scores_are_not_measured_again(run, foreign, count):
    whole = run("sensitivity", str(foreign), SMALL, *AMOUNTS, "--format=json")
    assert len(count) == 7
    again = run("sensitivity", str(foreign), SMALL, *AMOUNTS, "--format=json")
    assert (again.out, again.err) == (whole.out, "7 of 7 measurements are already in sensitivity.jsonl.\n")
    assert len(count) == 7
    lines = Path("sensitivity.jsonl").read_text().splitlines(keepends=True)
    # a line cut in two by a power failure
    Path("sensitivity.jsonl").write_text("".join(lines[:4]) + lines[4][:10])
    third = run("sensitivity", str(foreign), SMALL, *AMOUNTS, "--format=json")
    assert (third.out, len(count)) == (whole.out, 7 + 4)
    assert Path("sensitivity.jsonl").read_text() == "".join(lines)
    # with other amounts and fewer layers, scores that apply are reused
    fourth = run("sensitivity", str(foreign), SMALL, "--amounts", "0.5", "0.7", "--exclude=first", "--format=json")
    assert fourth.status == 0
    assert len(count) == 7 + 4 + 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_keeps_measured_scores(run, foreign, count, monkeypatch, number):

    def interrupted(*args: Any) -> Score:
        count.append(0.0)
        if len(count) == 4:
            os.kill(os.getpid(), number)
        return score(*args)

    with monkeypatch.context() as patch:
        patch.setattr("lit_prune.trained.sensitivity.command.score", interrupted)
        answer = run("sensitivity", str(foreign), SMALL, *AMOUNTS, "--format=csv")
    assert answer.status == 128 + number
    assert answer.out == ""
    name = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}[number]
    assert answer.complaint.startswith(
        f"Stopped by {name} after 3 of 7 measurements, all saved in `sensitivity.jsonl`."
    )
    assert len(Path("sensitivity.jsonl").read_text().splitlines()) == 1 + 3
    if number == signal.SIGINT:
        assert run("sensitivity", str(foreign), SMALL, *AMOUNTS).status == 0
        assert len(count) == 4 + 4


def test_a_signal_reports_only_measurements_of_this_command(run, foreign, count, monkeypatch):
    assert run("sensitivity", str(foreign), SMALL, *AMOUNTS).status == 0

    def interrupted(*args: Any) -> Score:
        os.kill(os.getpid(), signal.SIGINT)
        return score(*args)

    monkeypatch.setattr("lit_prune.trained.sensitivity.command.score", interrupted)
    answer = run("sensitivity", str(foreign), SMALL, "--amounts", "0.5", "0.7", "--exclude=first")
    assert "Stopped by Ctrl-C after 3 of 5 measurements, all saved in `sensitivity.jsonl`." in answer.err


def test_scores_under_other_conditions_are_refused(run, foreign, tmp_path):
    assert run("sensitivity", str(foreign), SMALL, *AMOUNTS).status == 0
    before = Path("sensitivity.jsonl").read_bytes()
    content = torch.load(foreign, weights_only=True)
    content["state_dict"]["head.bias"] += 1
    torch.save(content, "other.ckpt")
    for path, argv, condition in [
        ("other.ckpt", [], "weights"),
        (str(foreign), ["--limit=10"], "images"),
        (str(foreign), ["--split=test", "--limit=20"], "split"),
    ]:
        answer = run("sensitivity", path, SMALL, *AMOUNTS, *argv)
        assert answer.status == 2
        assert (
            f"`sensitivity.jsonl` to be measured with the same {condition} as in this command, but" in answer.complaint
        )
    assert Path("sensitivity.jsonl").read_bytes() == before


@pytest.mark.parametrize(
    "line", ['{"layer": "a", "amount": 0.5, "right": 3, "images": 2}', "3", '{"layer": [], "amount": 1}']
)
def test_lines_without_a_score_are_refused(tmp_path, line):
    known = Measurements(tmp_path / "m.jsonl", ABOUT)
    known.add("a", 0.5, Score(1, 2))
    with known.path.open("a") as file:
        file.write(f"{line}\n")
    with pytest.raises(
        InputError, match=r"^Expected measurements of `lit-prune sensitivity` in `.*`, but got the line "
    ):
        Measurements(known.path, ABOUT)


@pytest.mark.parametrize(
    "content", [b"hello", b"hello\n", b"\xff\n", b"[" * 100_000 + b"\n", b"{}\n", b"[1]\n", b'{"epoch": 0}\n{"ep']
)
def test_other_files_are_refused_and_not_changed(tmp_path, content):
    path = tmp_path / "m.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        Measurements(path, ABOUT)
    assert str(error.value) == (
        f"Expected measurements of `lit-prune sensitivity` in `{path}`, but got something else. "
        "HINT: give another `--output`, or remove that file."
    )
    assert path.read_bytes() == content


def test_nothing_is_written_before_the_first_score(tmp_path):
    known = Measurements(tmp_path / "m.jsonl", ABOUT)
    assert not known.path.exists()
    known.add(None, 0.0, Score(1, 2))
    assert len(known.path.read_text().splitlines()) == 2
    assert Measurements(known.path, ABOUT).get(None, 0.0) == Score(1, 2)
    known.path.write_bytes(b"")
    assert Measurements(known.path, ABOUT).get(None, 0.0) is None


def test_fingerprints_tell_tensors_apart():
    same = [("a", torch.arange(4.0)), ("b", torch.zeros(2))]
    others = [
        [("a", torch.arange(4.0) + 1e-6), ("b", torch.zeros(2))],
        [("a", torch.arange(4.0).view(2, 2)), ("b", torch.zeros(2))],
        [("a", torch.arange(4)), ("b", torch.zeros(2))],
        [("b", torch.arange(4.0)), ("a", torch.zeros(2))],
        [("a", torch.arange(4.0))],
    ]
    prints = [fingerprint(tensors) for tensors in (same, *others)]
    assert len(set(prints)) == len(prints)
    assert fingerprint([("a", torch.arange(8.0)[::2] / 2), ("b", torch.zeros(2))]) == prints[0]


def test_one_layer_is_pruned_temporarily():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 1))
    first, second = weight_layers(model)
    with torch.no_grad():
        second.tensor[0, :2] = 0
    before = [first.tensor.clone(), second.tensor.clone()]
    with contextlib.suppress(KeyError), prune_temporarily(first, 0.25) as changed:
        assert changed
        assert int((first.tensor == 0).sum()) == 4
        assert torch.equal(second.tensor, before[1])
        raise KeyError
    assert torch.equal(first.tensor, before[0])
    with prune_temporarily(second, 0.5) as changed:
        assert not changed
    with prune_temporarily(second, 0.9) as changed:  # loses all weights, without a warning
        assert not second.tensor.any()
    assert torch.equal(second.tensor, before[1])


def test_amounts_that_change_nothing_are_not_scored(tmp_path):
    model: Any = nn.Sequential(nn.Linear(4, 4))
    with torch.no_grad():
        model[0].weight[:2] = 0
    calls: list[int] = []

    def score() -> Score:
        calls.append(1)
        return Score(len(calls), 5)

    known, ticks = Measurements(tmp_path / "m.jsonl", ABOUT), list[str]()
    base, scores = measure(model, weight_layers(model), [0.1, 0.5, 0.75], score, known, ticks.append)
    assert (base, scores) == (Score(1, 5), {"0": [Score(1, 5), Score(1, 5), Score(2, 5)]})
    assert ticks == ["Sequential", "0", "0", "0"]


@pytest.mark.parametrize(
    ("changes", "tolerance", "safe"),
    [
        ([0, -1, -2, -9], 1.0, 0.5),
        ([0, -1, -2, -9], 2.0, 0.75),
        ([0, -1, -2, -9], 9.0, 0.9),
        ([-2, -3, -4, -5], 1.0, 0.0),
        ([-3, 3, 3, -20], 1.0, 0.75),  # a loss at 25% that is recovered at 50% was chance
        ([0, -3, 1, -20], 1.0, 0.75),
        ([0, -5, -1, -20], 1.0, 0.25),  # the fit is -3 at both 50% and 75%
    ],
)
def test_safe_amounts(changes, tolerance, safe):
    assert make_result(a=changes).safe("a", tolerance) == safe


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=4), st.floats(0, 50))
def test_a_safe_amount_grows_with_the_tolerance(changes, tolerance):
    one = make_result(a=changes)
    assert one.safe("a", tolerance) <= one.safe("a", tolerance + 1)
    assert one.safe("a", 101) == 0.9


def test_limits_exclude_the_most_sensitive_small_layers():
    one = make_result(big1=[0, 0, -9], tiny=[-5, -6, -9], small=[0, -9, -9], big2=[0, 0, 0])
    limits = one.limits(1.0)
    assert [(limit.max_layer_sparsity, limit.exclude, limit.set_by) for limit in limits] == [
        (0.0, (), "tiny"),
        (0.5, ("tiny", "small"), "big1"),
    ]
    assert limits[1].share == 20 / 2020
    assert make_result(big1=[0, 0], big2=[0, 0]).limits(1.0) == [(0.5, (), "big1", 0.0)]
    text = format_table(one, 1.0).splitlines()
    assert text[-3].endswith(" of all these layers: no pruning, because even 25% of `tiny` cost more than 1 point.")
    assert text[-2:] == [
        "If the most sensitive layers, with 1.0% of the weights, are excluded: max_layer_sparsity=0.5",
        '  exclude=["tiny", "small"]',
    ]


def test_json_has_all_results():
    said = json.loads(format_json(make_result(a=[0, -7]), 2.5))
    assert said["layers"] == [{"layer": "a", "weights": 10, "accuracy": [0.5, 0.43], "max_layer_sparsity": 0.25}]
    assert (said["accuracy"], said["images"], said["tolerance_points"], said["split"]) == (0.5, 100, 2.5, "val")
    assert said["suggestions"] == [{"max_layer_sparsity": 0.25, "exclude": [], "set_by": "a", "share": 0.0}]


@pytest.mark.parametrize(
    ("sizes", "scores"),
    [
        ({}, {}),
        ({"a": 1}, {}),
        ({"a": 1}, {"a": []}),
        ({"a": 1}, {"a": [Score(1, 3)]}),
        ({"a": 1}, {"b": [Score(1, 2)]}),
    ],
)
def test_incomplete_results_are_refused(sizes, scores):
    with pytest.raises(InputError, match=r"^Expected .*scores"):
        Sensitivity("x", "val", Score(1, 2), sizes, [0.5], scores)


@pytest.mark.parametrize("count", [1, 3, 9])
@pytest.mark.parametrize("layers", [("fc",), tuple(f"model.encoder.layers.{n}.attention.out_proj" for n in range(2))])
def test_no_text_of_the_heat_map_is_cut_off(tmp_path, count, layers):
    base = Score(700, 1000, "val_MulticlassF1Score_macro_averaged_over_all_classes")
    amounts = [0.1 * n for n in range(1, count + 1)]
    scores = {layer: [Score(690, 1000, base.metric)] * count for layer in layers}
    found = Sensitivity(
        "folder/a_long_name_of_a_checkpoint.ckpt", "val", base, dict.fromkeys(layers, 9), amounts, scores
    )
    draw_map(found, 0.5, tmp_path / "map.png")
    with Image.open(tmp_path / "map.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]):
        assert (edge == 255).all()
