"""A later process continues the logs of a run: no row is lost, and no epoch is logged twice."""

import csv
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.loggers import CSVLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_prune.training.loggers import EPOCH_TIME, make_loggers, merge_next_rows, sync_logs, truncate_logs

# metrics of validation, then of training
EPOCH = ({"val/acc": 0.5}, {"train/loss": 1.5})


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "experiment" / "seed=0"


def log(loggers: Any, *epochs: int, **extra: float) -> None:
    """Log as a Trainer does: with the number of batches as step, and the epoch among the metrics."""
    for epoch in epochs:
        for metrics in EPOCH:
            for logger in loggers:
                scaled = {name: value + epoch for name, value in metrics.items()}
                logger.log_metrics(scaled | extra | {"epoch": epoch}, step=epoch * 100 + 7)


def end(loggers: Any) -> None:
    for logger in loggers:
        logger.finalize("success")


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of the CSV file, without empty cells."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return what TensorBoard reads from a folder: for each tag, pairs of step and value."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return {tag: [(event.step, event.value) for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


def expected_rows(*epochs: int) -> list[dict[str, str]]:
    return [
        {"epoch": str(e), "step": str(e)} | {name: str(value + e) for name, value in metrics.items()}
        for e in epochs
        for metrics in EPOCH
    ]


def test_both_loggers_write_into_the_folder_and_each_epoch_is_at_its_number(folder):
    loggers = make_loggers(folder)
    assert {logger.log_dir for logger in loggers} == {str(folder)}
    log(loggers, 0, 1)
    end(loggers)
    assert rows(folder) == expected_rows(0, 1)
    assert scalars(folder)["val/acc"] == [(0, 0.5), (1, 1.5)]


def test_new_loggers_append_to_existing_logs(folder):
    first = make_loggers(folder)
    log(first, 0)
    end(first)
    second = make_loggers(folder)
    log(second, 1)
    end(second)
    assert rows(folder) == expected_rows(0, 1)
    assert scalars(folder)["train/loss"] == [(0, 1.5), (1, 2.5)]


def test_rewinding_restores_exactly_what_was_logged_at_the_checkpoint(folder):
    loggers = make_loggers(folder)
    log(loggers, 0, 1)
    positions = sync_logs(loggers)
    before, known = (folder / "metrics.csv").read_bytes(), scalars(folder)
    assert positions["rows"] == 4
    log(loggers, 2, 3)
    end(loggers)
    later = make_loggers(folder)  # of a second process
    log(later, 4)
    end(later)
    assert len(list(folder.glob("events.out.tfevents.*"))) == 2
    assert scalars(folder) != known
    truncate_logs(folder, positions)
    assert (folder / "metrics.csv").read_bytes() == before
    assert scalars(folder) == known
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1


def test_a_rewound_run_ends_with_the_same_logs_as_an_uninterrupted_one(folder, tmp_path):
    whole, cut = make_loggers(tmp_path / "whole" / "seed=0"), make_loggers(folder)
    log(whole, 0, 1, 2)
    log(cut, 0)
    positions = sync_logs(cut)
    log(cut, 1)
    end(cut)
    truncate_logs(folder, positions)
    again = make_loggers(folder)
    log(again, 1, 2)
    for loggers in (whole, again):
        end(loggers)
    assert (folder / "metrics.csv").read_bytes() == (tmp_path / "whole/seed=0/metrics.csv").read_bytes()
    assert scalars(folder) == scalars(tmp_path / "whole/seed=0")


def test_positions_are_plain_values_that_match_the_files(folder):
    loggers = make_loggers(folder)
    assert sync_logs(loggers) == {}
    log(loggers, 0)
    positions = sync_logs(loggers)
    assert positions == {
        "rows": 2,
        "events": {path.name: path.stat().st_size for path in folder.glob("events.out.tfevents.*")},
    }
    assert len(positions["events"]) == 1
    log(loggers, 1)
    assert sync_logs(loggers)["rows"] == 4
    end(loggers)


def test_custom_loggers_have_no_position(tmp_path):
    logger = CSVLogger(tmp_path)
    logger.log_metrics({"a": 1}, step=0)
    logger.save()
    assert sync_logs([logger]) == {}


def test_a_run_writes_one_row_an_epoch_also_if_it_resumes_within(folder):
    loggers = make_loggers(folder)
    merge_next_rows(loggers, None)
    log(loggers, 0, 1)
    merged = [first | second for first, second in zip(expected_rows(0, 1)[::2], expected_rows(0, 1)[1::2], strict=True)]
    assert rows(folder) == merged[:1]  # metrics may be added to the second
    end(loggers)
    assert rows(folder) == merged
    whole = (folder / "metrics.csv").read_bytes()

    for part in (1, 2):  # the checkpoint is written after validation, or at the end of the epoch
        (folder / "metrics.csv").unlink()
        loggers = make_loggers(folder)
        merge_next_rows(loggers, None)
        log(loggers, 0)
        for metrics in EPOCH[:part]:
            loggers[1].log_metrics({name: value + 1 for name, value in metrics.items()} | {"epoch": 1}, step=107)
        positions = sync_logs(loggers)
        end(loggers)
        truncate_logs(folder, positions)
        assert rows(folder) == merged[:1]
        resumed = make_loggers(folder)
        merge_next_rows(resumed, positions["unwritten"])
        for metrics in EPOCH[part:]:
            resumed[1].log_metrics({name: value + 1 for name, value in metrics.items()} | {"epoch": 1}, step=107)
        end(resumed)
        assert (folder / "metrics.csv").read_bytes() == whole


def test_the_row_of_a_finished_epoch_is_written_at_once(folder):
    loggers = make_loggers(folder)
    merge_next_rows(loggers, None)
    loggers[1].log_metrics({"val/acc": 0.5, "epoch": 0}, step=7)
    assert not (folder / "metrics.csv").exists()
    loggers[1].log_metrics({"train/loss": 1.5, EPOCH_TIME: 9.0, "epoch": 0}, step=7)
    row = {"epoch": "0", "step": "0", "val/acc": "0.5", "train/loss": "1.5", EPOCH_TIME: "9.0"}
    assert rows(folder) == [row]
    assert "unwritten" not in sync_logs(loggers)


def test_rows_of_steps_and_of_a_second_validation_stay_apart(folder):
    loggers = make_loggers(folder)
    merge_next_rows(loggers, None)
    for metrics in ({"val/acc": 0.5}, {"train/loss_step": 2.5}, {"val/acc": 0.75}, {"train/loss": 1.5}):
        loggers[1].log_metrics(metrics | {"epoch": 0}, step=7)
    end(loggers)
    found = [{name: float(value) for name, value in row.items()} for row in rows(folder)]
    first, step, last = {"val/acc": 0.5}, {"train/loss_step": 2.5, "step": 7}, {"val/acc": 0.75, "train/loss": 1.5}
    assert found == [{"epoch": 0, "step": 0} | row for row in (first, step, last)]


@pytest.mark.parametrize("later", [False, True])
def test_a_new_column_loses_no_earlier_row(folder, later):
    loggers = make_loggers(folder)
    log(loggers, 0)
    if later:  # in another process
        end(loggers)
        loggers = make_loggers(folder)
    log(loggers, 1, extra=0.25)
    end(loggers)
    assert rows(folder) == [*expected_rows(0), *(row | {"extra": "0.25"} for row in expected_rows(1))]
    assert [path.name for path in folder.iterdir() if path.suffix == ".part"] == []


def test_rewinding_to_before_a_new_column_keeps_the_values(folder):
    loggers = make_loggers(folder)
    log(loggers, 0)
    positions = sync_logs(loggers)
    log(loggers, 1, extra=0.25)
    end(loggers)
    truncate_logs(folder, positions)
    assert rows(folder) == expected_rows(0)


@pytest.mark.parametrize("cut", [1, 5, 9])
def test_half_a_row_is_removed(folder, cut):
    loggers = make_loggers(folder)
    log(loggers, 0)
    positions = sync_logs(loggers)
    before = (folder / "metrics.csv").read_bytes()
    log(loggers, 1)
    end(loggers)
    whole = (folder / "metrics.csv").read_bytes()
    half = whole[: whole.index(b"\n", len(before)) - cut]
    assert half.startswith(before)
    (folder / "metrics.csv").write_bytes(half)
    truncate_logs(folder, positions)
    assert (folder / "metrics.csv").read_bytes() == before


def test_half_an_event_is_removed(folder):
    loggers = make_loggers(folder)
    log(loggers, 0)
    positions, known = sync_logs(loggers), scalars(folder)
    log(loggers, 1)
    end(loggers)
    (path,) = folder.glob("events.out.tfevents.*")
    path.write_bytes(path.read_bytes()[: positions["events"][path.name] + 11])
    truncate_logs(folder, positions)
    assert path.stat().st_size == positions["events"][path.name]
    assert scalars(folder) == known


def test_rewinding_without_positions_removes_all_logs(folder):
    loggers = make_loggers(folder)
    log(loggers, 0)
    end(loggers)
    (folder / "log.txt").touch()
    truncate_logs(folder, {})
    assert not (folder / "metrics.csv").exists()
    assert list(folder.glob("events.out.tfevents.*")) == []
    assert (folder / "log.txt").exists()
    truncate_logs(folder, {})  # without logs it does nothing


def test_rewinding_to_the_end_changes_nothing(folder):
    loggers = make_loggers(folder)
    log(loggers, 0, 1)
    positions = sync_logs(loggers)
    end(loggers)
    before = {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()}
    truncate_logs(folder, positions)
    assert {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.iterdir()} == before


def test_events_are_read_in_the_order_of_the_files_that_were_created_within_a_second(folder):
    for epoch in range(12):
        logger = make_loggers(folder)[0]
        logger.log_metrics({"val/acc": 0.5, "epoch": epoch}, epoch)
        logger.save()
    assert scalars(folder)["val/acc"] == [(epoch, 0.5) for epoch in range(12)]
