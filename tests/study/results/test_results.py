"""Reading the files of runs, complete or damaged."""

import json
import math
from typing import Any

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.study.measures import MEASURES
from lit_prune.study.results.results import Run, format_seeds, read_results
from tests.study.folders import LAYERS, SMALL, full_content, make_study, run_folder

ONE = {"name": "one", "experiments": [{"name": "dense"}]}
HEADER = (
    "epoch,step,train/loss,train/acc,val/loss,val/acc,sparsity/global,sparsity/ever_pruned,gradient/untouched,"
    "gradient/untouched_pruned,time/epoch,sparsity/layer/a"
)
# as Lightning writes them, validation before training; one row has neither
ROWS = """
0,0,,,2.0,0.3,,,,,,
0,0,2.1,0.2,,,0.07,0.1,0.9,0.08,10.0,0.5
0,0,,,,,,,,,,
1,1,,,1.0,0.595,,,,,,
1,1,1.2,0.5,,,0.05,0.1,0.8,0.06,30.0,0.4
2,2,,,1.5,0.6,,,,,,
2,2,0.8,0.7,,,0.04,0.1,0.7,0.05,20.0,0.3
"""
RESULT = {
    "format": 1,
    "experiment": "dense",
    "seed": 0,
    "epochs": 3,
    "initial_weights": "random",
    "best_epoch": 2,
    "test": {"last": {"test/loss": 1.6, "test/acc": 0.55}, "best": {"test/loss": 1.1, "test/acc": 0.57}},
    "environment": {"device": "cpu"},
    "seconds": 60.0,
}


def one_run(folder, metrics=HEADER + ROWS, result=RESULT, content=ONE):
    make_study(folder, content, missing={("dense", 0)})
    here = run_folder(folder, "dense", 0)
    here.mkdir(parents=True)
    (here / "metrics.csv").write_text(metrics, encoding="utf-8")
    text = result if isinstance(result, str) else json.dumps(result)
    (here / "result.json").write_text(text, encoding="utf-8")
    return here


def read_one(folder) -> Run:
    (run,) = read_results(folder).runs
    return run


def test_every_measure_equals_its_value_by_hand(tmp_path):
    one_run(tmp_path)
    run = read_one(tmp_path)
    assert run.status == "complete"
    assert run.note == ""
    assert run.epochs == (0, 1, 2)
    assert run.curves["val_acc"] == {0: 0.3, 1: 0.595, 2: 0.6}
    assert run.curves["train_loss"] == {0: 2.1, 1: 1.2, 2: 0.8}
    assert run.curves["seconds"] == {0: 10.0, 1: 30.0, 2: 20.0}
    assert run.layers == {"a": {0: 0.5, 1: 0.4, 2: 0.3}}
    assert run.initial_weights == "random"
    assert run.environment == {"device": "cpu"}
    expected = {
        "best_train_acc": 0.7,
        "best_val_acc": 0.6,
        "test_acc_at_best": 0.57,
        "first_val_acc": 0.3,
        "final_train_acc": 0.7,
        "final_val_acc": 0.6,
        "final_test_acc": 0.55,
        "lowest_val_loss": 1.0,
        "final_train_loss": 0.8,
        "final_val_loss": 1.5,
        "final_test_loss": 1.6,
        "sparsity_start": 0.1,  # the pruned fraction; sparsity is 0.07 after the first epoch
        "sparsity_at_best": 0.04,  # the last epoch is the best
        "sparsity_end": 0.04,
        "sparsity_range": 0.07 - 0.04,
        "sparsity_late_fall": 0.05 - 0.04,  # two of three epochs are two thirds
        "untouched": 0.7,
        "untouched_pruned": 0.05,
        "epochs_to_99": 2.0,  # 0.595 is more than 0.99 of 0.6
        "epochs": 3.0,
        "seconds_per_epoch": 20.0,
    }
    assert dict(run.measures) == expected
    assert set(expected) == set(MEASURES)


def test_masks_that_change_in_the_first_epoch_do_not_raise_the_sparsity_at_the_start(tmp_path):
    row = "\n0,0,2.1,0.2,2.0,0.3,0.07,0.1,0.9,0.08,10.0,0.5,0.06\n"  # 0.1 were ever pruned
    one_run(tmp_path, metrics=HEADER + ",sparsity/masked" + row, result={**RESULT, "epochs": 1, "best_epoch": 0})
    assert read_one(tmp_path).measures["sparsity_start"] == 0.06


def test_the_sparsity_of_the_best_epoch_is_not_that_of_the_end(tmp_path):
    one_run(tmp_path, metrics=HEADER + ROWS.replace("0.595", "0.75"), result={**RESULT, "best_epoch": 1})
    measures = read_one(tmp_path).measures
    assert measures["best_val_acc"] == 0.75
    assert measures["sparsity_at_best"] == 0.05
    assert measures["sparsity_end"] == 0.04


def test_a_run_without_training_has_no_measures_over_epochs(tmp_path):
    make_study(tmp_path)
    for run in read_results(tmp_path).of("task3/prune-10"):
        assert run.status == "complete"
        assert run.measures["sparsity_start"] == run.measures["sparsity_end"] == pytest.approx(0.1, abs=1e-6)
        assert {"final_test_acc", "final_val_acc", "final_val_loss"} <= set(run.measures)
        assert not set(run.measures) & {"epochs", "epochs_to_99", "sparsity_range", "seconds_per_epoch", "untouched"}


def test_if_the_last_epoch_is_the_best_its_test_score_counts(tmp_path):
    one_run(tmp_path / "last", result=RESULT | {"test": {"last": {"test/acc": 0.55}}})
    assert read_one(tmp_path / "last").measures["test_acc_at_best"] == 0.55
    earlier = (HEADER + ROWS).replace("1.5,0.6,", "1.5,0.59,")
    one_run(tmp_path / "earlier", earlier, RESULT | {"test": {"last": {"test/acc": 0.55}}})
    assert "test_acc_at_best" not in read_one(tmp_path / "earlier").measures


def test_custom_metric_names_are_used(tmp_path):
    content = ONE | {"metrics": {"train_loss": "mse", "val_loss": "val_mse", "test_loss": "test_mse"}}
    metrics = "epoch,step,mse,val_mse,val/acc\n0,1,3.0,4.0,0.5\n1,2,1.0,2.0,0.5\n"
    one_run(tmp_path, metrics, RESULT | {"epochs": 2, "test": {"last": {"test_mse": 5.0}}}, content)
    run = read_one(tmp_path)
    assert run.status == "complete"
    assert run.note == ""  # every column that the plan names is there
    assert set(run.curves) == {"train_loss", "val_loss"}
    assert dict(run.measures) == {
        "final_train_loss": 1.0,
        "final_val_loss": 2.0,
        "lowest_val_loss": 2.0,
        "final_test_loss": 5.0,
        "epochs": 2.0,
    }


def test_runs_are_in_the_order_of_the_plan_with_their_status(tmp_path):
    content = SMALL | {"seeds": [2, 0, 1]}
    which: dict[str, Any] = {
        "unfinished": {("task1/logits", 1)},
        "diverged": {("task1/softmax", 0)},
        "failed": {("task5/finetuned-10", 2)},
        "missing": {("task4/finetuned-10", 0)},
    }
    make_study(tmp_path, content, **which)
    results = read_results(tmp_path)
    names = [experiment["name"] for experiment in content["experiments"]]
    assert [(run.experiment, run.seed) for run in results.runs] == [
        (name, seed) for name in names for seed in (0, 1, 2)
    ]
    others = {(run.experiment, run.seed): run for run in results.runs if run.status != "complete"}
    assert {status: {key for key, run in others.items() if run.status == status} for status in which} == which
    assert len(others) == 4
    notes = {run.status: run.note for run in others.values()}
    assert notes == {
        "unfinished": "unfinished after 2 epochs",
        "diverged": "`train/loss` is nan in epoch 1",
        "failed": "The optimizer ran out of memory",
        "missing": "not started",
    }
    for run in others.values():
        assert bool(run.measures) == (run.status == "diverged")
        assert all(math.isfinite(value) for value in run.measures.values())
    assert len(others["task1/logits", 1].curves["val_acc"]) == 2


def test_a_run_with_an_empty_folder_is_missing(tmp_path):
    make_study(tmp_path, ONE, missing={("dense", 0)})
    run_folder(tmp_path, "dense", 0).mkdir(parents=True)
    assert read_one(tmp_path).status == "missing"


def test_a_diverged_experiment_has_no_values(tmp_path):
    make_study(tmp_path, diverged={("task1/softmax", 1)})
    results = read_results(tmp_path)
    assert "best_val_acc" in results.of("task1/softmax")[1].measures
    for measure in MEASURES:
        assert results.values("task1/softmax", measure) == {}
    assert set(results.values("task1/logits", "best_val_acc")) == {0, 1, 2}


def test_only_complete_runs_have_values(tmp_path):
    make_study(tmp_path, unfinished={("task1/logits", 0)}, failed={("task1/logits", 1)})
    results = read_results(tmp_path)
    assert results.values("task1/logits", "best_val_acc") == {2: results.runs[2].measures["best_val_acc"]}
    assert results.values("task3/prune-10", "untouched") == {}


@pytest.mark.parametrize(
    ("cell", "found"), [("nan", "nan"), ("inf", "inf"), ("-inf", "-inf"), ("NaN", "nan"), ("1e999", "inf")]
)
def test_a_nonfinite_loss_is_reported_with_its_first_epoch(tmp_path, cell, found):
    metrics = (HEADER + ROWS).replace("1,1,,,1.0", f"1,1,,,{cell}").replace("2,2,,,1.5", "2,2,,,nan")
    one_run(tmp_path, metrics)
    run = read_one(tmp_path)
    assert run.status == "diverged"
    assert run.note == f"`val/loss` is {found} in epoch 1"
    assert "final_val_loss" not in run.measures


def test_an_empty_cell_is_not_a_diverged_loss(tmp_path):
    one_run(tmp_path, (HEADER + ROWS).replace("1,1,,,1.0,0.595", "1,1,,,,0.595"))
    run = read_one(tmp_path)
    assert run.status == "complete"
    assert list(run.curves["val_loss"]) == [0, 2]
    assert run.measures["lowest_val_loss"] == 1.5


def test_sparsity_that_was_not_counted_in_the_last_third_has_no_late_fall(tmp_path):
    one_run(tmp_path, (HEADER + ROWS).replace("0.05,0.1,0.8", ",0.1,0.8").replace("0.04,0.1,0.7", ",0.1,0.7"))
    run = read_one(tmp_path)
    assert run.status == "complete"
    assert run.measures["sparsity_end"] == 0.07
    assert "sparsity_late_fall" not in run.measures


def test_values_of_another_epoch_are_neither_first_nor_final(tmp_path):
    """Validated in the second of three epochs only."""
    rows = ROWS.replace("0,0,,,2.0,0.3,,,,,,\n", "").replace("2,2,,,1.5,0.6,,,,,,\n", "")
    one_run(tmp_path, HEADER + rows)
    measures = read_one(tmp_path).measures
    assert measures["best_val_acc"] == 0.595
    assert measures["final_train_acc"] == 0.7
    assert not {"first_val_acc", "final_val_acc", "final_val_loss"} & measures.keys()


def test_one_epoch_shows_no_change_of_sparsity(tmp_path):
    one_run(tmp_path, HEADER + ROWS[: ROWS.index("1,1")], result={**RESULT, "epochs": 1, "best_epoch": 0})
    measures = read_one(tmp_path).measures
    assert measures["sparsity_end"] == 0.07
    assert not {"sparsity_range", "sparsity_late_fall"} & measures.keys()


def test_a_nan_test_loss_is_diverged(tmp_path):
    one_run(tmp_path, result=RESULT | {"test": {"last": {"test/loss": math.nan, "test/acc": 0.1}}})
    run = read_one(tmp_path)
    assert (run.status, run.note) == ("diverged", "`test/loss` is nan")


@pytest.mark.parametrize(
    ("result", "note"),
    [
        (json.dumps(RESULT)[:40], "result.json cannot be read (Unterminated string"),
        ("", "result.json cannot be read (Expecting value"),
        ("[1, 2]", "result.json was not written by a study"),
        ({"accuracy": 0.9}, "result.json was not written by a study"),
        (RESULT | {"format": 2}, "result.json was not written by a study"),
        (RESULT | {"seed": 4}, "result.json belongs to `dense` with seed 4"),
        (RESULT | {"experiment": "other"}, "result.json belongs to `other` with seed 0"),
        (RESULT | {"epochs": "many"}, "result.json has 'many' for `epochs`"),
        (RESULT | {"epochs": True}, "result.json has 'True' for `epochs`"),
        (RESULT | {"test": [1]}, "result.json has values that are not numbers in `test`"),
        (RESULT | {"test": {"last": {"test/acc": "high"}}}, "result.json has values that are not numbers in `test`"),
        (RESULT | {"environment": 3}, "result.json has a wrong type for"),
        (RESULT | {"epochs": 9}, "metrics.csv ends after 3 of 9 epochs"),
    ],
)
def test_a_damaged_result_fails_only_its_run(tmp_path, result, note):
    one_run(tmp_path, result=result)
    run = read_one(tmp_path)
    assert run.status == "failed"
    assert run.note.startswith(note)
    assert "\n" not in run.note
    assert run.measures == {}


@pytest.mark.parametrize(
    ("metrics", "note"),
    [
        ("", "metrics.csv is empty"),
        ("step,val/acc\n1,0.5\n", "metrics.csv has no column `epoch`"),
        (
            "epoch,step,lr\n0,1,0.1\n",
            "metrics.csv has none of the columns `train/loss`, `train/acc`, `val/loss`, `val/acc`",
        ),
        ("epoch,val/acc\n0,0.5\n1\n", "metrics.csv has 1 cells in line 3 and 2 in line 1"),
        ("epoch,val/acc\n0,high\n", "metrics.csv has `high`, not a number, in the column `val/acc`"),
        ("epoch,val/acc\nx,0.5\n", "metrics.csv has `x`, not a number, in the column `epoch`"),
        ("epoch,val/acc\n0.5,0.5\n", "metrics.csv has `0.5`, not an integer, in the column `epoch`"),
        ("epoch,val/acc\ninf,0.5\n", "metrics.csv has `inf`, not an integer, in the column `epoch`"),
        ("epoch,val/acc\n", "metrics.csv ends after 0 of 3 epochs"),
        ('epoch,val/acc\n0,"0.5\n', "metrics.csv cannot be read ("),
        ("\0\1\2", "metrics.csv "),
    ],
)
def test_damaged_metrics_fail_only_their_run(tmp_path, metrics, note):
    one_run(tmp_path, metrics)
    run = read_one(tmp_path)
    assert run.status == "failed"
    assert run.note.startswith(note)


def test_binary_metrics_fail_the_run(tmp_path):
    here = one_run(tmp_path)
    (here / "metrics.csv").write_bytes(b"epoch,val/acc\n0,\xff\xfe\n")
    run = read_one(tmp_path)
    assert (run.status, run.note[:26]) == ("failed", "metrics.csv cannot be read")


def test_missing_metrics_fail_the_run(tmp_path):
    here = one_run(tmp_path)
    (here / "metrics.csv").unlink()
    run = read_one(tmp_path)
    assert (run.status, run.note) == ("failed", "metrics.csv is missing")


def test_a_missing_column_is_named_and_the_rest_is_used(tmp_path):
    make_study(tmp_path, without={"val/acc"})
    results = read_results(tmp_path)
    assert len(results.runs) == 15
    for run in results.runs:
        assert run.status == "complete"
        assert run.note == "metrics.csv has no column `val/acc`"
        assert "final_val_loss" in run.measures
        assert "best_val_acc" not in run.measures


def test_an_unfinished_run_may_end_within_a_line(tmp_path):
    make_study(tmp_path, ONE, unfinished={("dense", 0)})
    path = run_folder(tmp_path, "dense", 0) / "metrics.csv"
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    run = read_one(tmp_path)
    assert (run.status, run.note) == ("unfinished", "unfinished after 0 epochs")


def test_layer_sparsities_are_read(tmp_path):
    make_study(tmp_path)
    run = read_results(tmp_path).of("task5/finetuned-10")[0]
    assert set(run.layers) == set(LAYERS)
    assert {len(values) for values in run.layers.values()} == {4}


def test_the_full_study_is_read(tmp_path):
    make_study(tmp_path, full_content(3))
    results = read_results(tmp_path)
    assert len(results.runs) == 93
    assert {run.status for run in results.runs} == {"complete"}


def sentence(folder) -> str:
    with pytest.raises(InputError) as caught:
        read_results(folder)
    return str(caught.value)


def test_a_foreign_folder_is_refused(tmp_path):
    absent, empty, foreign, file = (tmp_path / name for name in ("absent", "empty", "foreign", "file"))
    empty.mkdir()
    foreign.mkdir()
    (foreign / "holiday.jpg").touch()
    file.touch()
    expected = {
        absent: "which is not a folder",
        file: "which is not a folder",
        empty: "which is empty",
        foreign: "which holds no plan.yaml",
    }
    for folder, why in expected.items():
        assert f"Expected the folder of a study, but got `{folder}`, {why}." in sentence(folder)


def test_a_damaged_plan_is_refused(tmp_path):
    path = tmp_path / "plan.yaml"
    path.write_text("experiments: [", encoding="utf-8")
    assert sentence(tmp_path).startswith(f"Expected `{path}` to be a readable YAML file")
    path.write_text("just words", encoding="utf-8")
    assert sentence(tmp_path).startswith(f"Expected a plan in `{path}`, but got a str.")
    path.write_text(yaml.safe_dump({"name": "x", "experiments": []}), encoding="utf-8")
    assert sentence(tmp_path).startswith(f"Expected at least one experiment in `{path}`, but got none.")


def test_seeds_are_named():
    assert format_seeds([3]) == "seed 3"
    assert format_seeds([0, 2]) == "seeds 0, 2"
