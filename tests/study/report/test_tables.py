"""Tables of a report, and results.csv."""

import csv
import io
import re

import pytest

from lit_prune.study.measures import MEASURES, format_estimate
from lit_prune.study.plan.claims import Contrast
from lit_prune.study.report.claims_table import claims_table, describe_contrast, describe_limits
from lit_prune.study.report.document import embed_image
from lit_prune.study.report.tables import (
    experiments_with_removal,
    group_tables,
    markdown_table,
    plateau_table,
    results_csv,
)
from lit_prune.study.results.results import read_results
from lit_prune.study.results.verdicts import judge
from lit_prune.study.statistics import Estimate, estimate
from tests.study.folders import SMALL, make_study


def cells(text) -> list[dict[str, str]]:
    """Parse a Markdown table: each row by the titles of its columns."""
    lines = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in text.splitlines()]
    header, rule, *rows = lines
    assert all(re.fullmatch(r"-{3,}:?|-{2,}:", cell) for cell in rule)
    return [dict(zip(header, row, strict=True)) for row in rows]


def rule_of(text) -> list[str]:
    return [cell.strip() for cell in text.splitlines()[1].split("|")[1:-1]]


def tables_of(results, group) -> list[list[dict[str, str]]]:
    return [cells(text) for text in group_tables(results, results.groups()[group])]


def test_numbers_are_aligned_to_the_right_and_text_to_the_left():
    text = markdown_table(["name", "value"], [["a", "1.0"], ["longer | name", "-12.25"]])
    assert text.splitlines() == [
        "| name           |  value |",
        "| -------------- | -----: |",
        "| a              |    1.0 |",
        "| longer \\| name | -12.25 |",
    ]


def test_an_image_has_alternative_text_and_a_quoted_path():
    assert embed_image("loss [nats]", "figures/task 1.png") == "![loss (nats)](figures/task%201.png)"


def test_measures_have_distinct_columns_and_correct_units():
    assert len({measure.column for measure in MEASURES.values()}) == len(MEASURES)
    assert {name for name, measure in MEASURES.items() if measure.unit == "%"} == {
        name for name in MEASURES if any(word in name for word in ("acc", "sparsity", "untouched"))
    }


@pytest.mark.parametrize(
    ("measure", "found", "text"),
    [
        ("best_val_acc", Estimate(0.8125, 0.8, 0.825, 3), "81.25 ± 1.25"),
        ("best_val_acc", Estimate(0.8125, None, None, 1), "81.25"),
        ("final_val_loss", Estimate(0.65, 0.64, 0.66, 3), "0.650 ± 0.010"),
        ("seconds_per_epoch", Estimate(12.5, 12.5, 12.5, 3), "12.50 ± 0.00"),
        ("sparsity_end", Estimate(-1e-9, -2e-9, 0.0, 3), "0.00 ± 0.00"),
    ],
)
def test_a_mean_is_written_with_half_its_interval(measure, found, text):
    assert format_estimate(MEASURES[measure], found) == text


def test_cells_are_means_of_the_files(tmp_path):
    make_study(tmp_path)
    results = read_results(tmp_path)
    accuracies, others = tables_of(results, "task1")
    assert [row["accuracy, %"] for row in accuracies] == ["logits", "softmax"]
    values = [run.measures["best_val_acc"] * 100 for run in results.of("task1/softmax")]
    found = estimate(values)
    assert found is not None
    assert found.half_width is not None
    assert accuracies[1]["best val"] == f"{found.mean:.2f} ± {found.half_width:.2f}"
    assert accuracies[1]["seeds"] == "3"
    seconds = estimate(run.measures["seconds_per_epoch"] for run in results.of("task1/logits"))
    assert seconds is not None
    assert others[0]["s per epoch"] == f"{seconds.mean:.2f} ± {seconds.half_width:.2f}"


def test_columns_of_numbers_are_right_aligned(tmp_path):
    make_study(tmp_path)
    results = read_results(tmp_path)
    texts = [*group_tables(results, results.groups()["task1"]), plateau_table(results)]
    assert len(texts) == 3
    for text, left in zip(texts, (2, 2, 1), strict=True):
        rule = rule_of(text)
        assert [cell.endswith(":") for cell in rule] == [False] * left + [True] * (len(rule) - left)


def test_columns_without_values_are_left_out(tmp_path):
    make_study(tmp_path)
    accuracies, others = tables_of(read_results(tmp_path), "task3")
    assert list(accuracies[0]) == [
        "accuracy, %",
        "starts from",
        "seeds",
        "best val",
        "test at best val",
        "final val",
        "final test",
    ]
    assert not {"final train loss", "epochs to 99% of best", "s per epoch"} & set(others[0])
    assert accuracies[0]["starts from"] == "task1/logits"


def test_a_study_without_accuracy_has_no_table_of_it(tmp_path):
    metrics = {"train_loss": "mse", "val_loss": "val_mse"}
    make_study(tmp_path, {"metrics": metrics, "experiments": [{"name": "task1/a"}]})
    (losses,) = tables_of(read_results(tmp_path), "task1")
    assert losses[0]["final val loss"] != "-"


def test_a_diverged_experiment_has_no_mean_in_any_cell(tmp_path):
    make_study(tmp_path, diverged={("task1/softmax", 1), ("task1/softmax", 2)})
    for rows in tables_of(read_results(tmp_path), "task1"):
        assert [row["seeds"] for row in rows] == ["3", "1 of 3"]
        own = list(rows[1].values())[3:]
        assert len(own) >= 6
        assert set(own) == {"diverged (seeds 1, 2)"}
        assert not any("diverged" in cell for cell in rows[0].values())


def test_incomplete_runs_are_left_out_and_counted(tmp_path):
    make_study(tmp_path, unfinished={("task1/logits", 1)}, missing={("task1/softmax", s) for s in range(3)})
    results = read_results(tmp_path)
    (logits, softmax), _ = tables_of(results, "task1")
    assert logits["seeds"] == "2 of 3"
    found = estimate(results.values("task1/logits", "best_val_acc").values())
    assert found is not None
    assert found.n == 2
    assert logits["best val"] == format_estimate(MEASURES["best_val_acc"], found)
    assert softmax["seeds"] == "0 of 3"
    assert set(list(softmax.values())[3:]) == {"-"}


def test_one_seed_gives_no_interval(tmp_path):
    make_study(tmp_path, SMALL | {"seeds": [5]})
    for rows in tables_of(read_results(tmp_path), "task1"):
        assert "±" not in "".join(cell for row in rows for cell in row.values())


def test_a_group_without_any_run_has_no_table(tmp_path):
    make_study(tmp_path, missing={("task3/prune-10", seed) for seed in range(3)})
    results = read_results(tmp_path)
    assert group_tables(results, results.groups()["task3"]) == []


@pytest.mark.parametrize("name", ["PruningRemoval", "lit_prune.PruningRemoval", "lit_prune.callbacks.PruningRemoval"])
def test_unfrozen_experiments_are_those_with_pruning_removal(tmp_path, name):
    removal = {"trainer": {"callbacks+": [{"class_path": name}]}}
    plan = make_study(
        tmp_path,
        {
            "settings": {"trainer": {"callbacks": [{"class_path": "SparsityMonitor"}]}},
            "experiments": [{"name": "a", "overrides": removal}, {"name": "b"}],
        },
    )
    assert [experiment.name for experiment in experiments_with_removal(plan)] == ["a"]


def test_a_single_callback_in_the_settings_counts(tmp_path):
    content = {"settings": {"trainer": {"callbacks": {"class_path": "PruningRemoval"}}}, "experiments": [{"name": "a"}]}
    assert [experiment.name for experiment in experiments_with_removal(make_study(tmp_path, content))] == ["a"]


def test_the_plateau_table_compares_final_sparsity_with_untouched_weights(tmp_path):
    make_study(tmp_path)
    results = read_results(tmp_path)
    (row,) = cells(plateau_table(results))
    assert row["% of the weights"] == "task5/finetuned-10"
    runs = results.of("task5/finetuned-10")
    gaps = [run.measures["sparsity_end"] - run.measures["untouched_pruned"] for run in runs]
    assert row["largest difference of a seed"] == f"{100 * max(map(abs, gaps)):.4f}"
    assert row["end minus pruned and untouched"].startswith(f"{100 * sum(gaps) / 3:.4f} ± ")
    assert row["sparsity at start"] == "10.000 ± 0.000"


def test_the_plateau_of_a_diverged_run_is_not_averaged(tmp_path):
    make_study(tmp_path, diverged={("task5/finetuned-10", 0)})
    (row,) = cells(plateau_table(read_results(tmp_path)))
    assert set(list(row.values())[2:]) == {"diverged (seed 0)"}


def test_the_plateau_table_is_empty_without_runs(tmp_path):
    make_study(tmp_path, missing={("task5/finetuned-10", seed) for seed in range(3)})
    assert plateau_table(read_results(tmp_path)) == ""


def test_results_csv_has_every_run_and_every_digit(tmp_path):
    make_study(tmp_path, missing={("task1/logits", 0)}, diverged={("task1/softmax", 2)})
    results = read_results(tmp_path)
    rows = list(csv.DictReader(io.StringIO(results_csv(results))))
    assert len(rows) == 15
    assert list(rows[0]) == ["experiment", "seed", "status", "note", *MEASURES]
    for row, run in zip(rows, results.runs, strict=True):
        assert (row["experiment"], int(row["seed"]), row["status"], row["note"]) == (
            run.experiment,
            run.seed,
            run.status,
            run.note,
        )
        assert {name: float(row[name]) for name in MEASURES if row[name]} == dict(run.measures)
    assert set(list(rows[0].values())[4:]) == {""}


@pytest.mark.parametrize(
    ("contrast", "what", "between"),
    [
        (
            Contrast("a", "best_val_acc", minus="b", between=(None, -0.05)),
            "best validation accuracy: a minus b",
            "interval at most -5 points",
        ),
        (
            Contrast("a", "sparsity_start", minus_measure="sparsity_end", between=(0.01, None), exact=True),
            "a: sparsity at the start minus sparsity at the end",
            "each seed at least 1 points",
        ),
        (
            Contrast("a", "sparsity_range", between=(0, 0), exact=True),
            "a: range of the sparsity over epochs",
            "each seed exactly 0 %",
        ),
        (
            Contrast("a", "final_val_loss", minus="b", minus_measure="lowest_val_loss", between=(-0.1, 0.2)),
            "final validation loss of a minus lowest validation loss of b",
            "interval within -0.1 to 0.2 nats",
        ),
    ],
)
def test_a_contrast_is_described(contrast, what, between):
    assert describe_contrast(contrast) == what
    assert describe_limits(contrast) == between


def test_the_claims_table_has_measurements_and_verdicts(tmp_path):
    make_study(tmp_path)
    results = read_results(tmp_path)
    judgements = [judge(claim, results) for claim in results.plan.claims]
    fails, constant = cells(claims_table(judgements))
    assert fails["claim"] == "Softmax fails"
    assert fails["verdict"] == "**holds**"
    found = judgements[0].findings[0].estimate
    assert found is not None
    assert fails["measured"] == f"{format_estimate(MEASURES['final_test_acc'], found)} points"
    assert fails["measured"].startswith("-")
    assert constant["measured"] == "0, 0, 0 % (seeds 0, 1, 2)"
    assert constant["this contrast"] == "holds"


def test_a_claim_with_several_contrasts_is_written_once(tmp_path):
    contrasts = [
        {"of": ["task1/logits", "task1/softmax"], "measure": "best_val_acc", "between": [0.5, None]},
        {"of": "task4/finetuned-10", "measure": "untouched", "between": [None, 0.5]},
    ]
    make_study(
        tmp_path,
        SMALL | {"claims": [{"said": "All is well", "contrasts": contrasts, "pretrained": True}]},
        diverged={("task1/softmax", 0)},
    )
    results = read_results(tmp_path)
    rows = cells(claims_table([judge(claim, results) for claim in results.plan.claims]))
    assert [row["claim"] for row in rows] == ["All is well", "", ""]
    why = "the claim is about pre-trained weights, but these runs started from random weights"
    assert [row["verdict"] for row in rows] == [f"**inconclusive**: {why}", "", ""]
    assert [row["this contrast"] for row in rows] == [
        "holds",
        "inconclusive: task1/softmax diverged with seed 0",
        "does not hold",
    ]
    assert rows[1]["measured"] == "-"


def test_without_claims_there_is_no_table():
    assert claims_table([]) == ""
