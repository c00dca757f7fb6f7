"""Every run has its own folder, even if several start at once."""

import csv
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lit_prune.errors import InputError
from lit_prune.training.loggers import make_loggers
from lit_prune.training.run_folder import claim_folder, claim_version, remove_unused


def test_runs_that_start_at_once_never_share_a_folder(tmp_path):
    folder = tmp_path / "deep" / "name"
    with ThreadPoolExecutor(8) as pool:
        claimed = list(pool.map(lambda _: claim_version(folder), range(24)))
    assert sorted(claimed) == list(range(24))
    assert {path.name for path in folder.iterdir()} == {f"version_{number}" for number in claimed}


def test_a_new_version_follows_the_highest_one_and_other_files_are_ignored(tmp_path):
    (tmp_path / "version_7").mkdir()
    (tmp_path / "version_x").mkdir()
    (tmp_path / "notes.txt").touch()
    assert claim_version(tmp_path) == 8


def test_both_loggers_write_into_one_folder(tmp_path):
    first, second = make_loggers(claim_folder(tmp_path, "name"))
    assert first.log_dir == second.log_dir == str(tmp_path / "lightning_logs" / "name" / "version_0")


def test_epoch_metrics_are_on_disk_at_once_with_the_epoch_as_step(tmp_path):
    _, logger = make_loggers(claim_folder(tmp_path, "name"))
    logger.log_metrics({"epoch": 3, "val/acc": 0.5}, step=1234)
    logger.log_metrics({"epoch": 3, "extra_step": 0.25}, step=1235)
    with (Path(logger.log_dir) / "metrics.csv").open() as file:
        rows = [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]
    assert rows == [
        {"epoch": "3", "step": "3", "val/acc": "0.5"},
        {"epoch": "3", "step": "1235", "extra_step": "0.25"},
    ]


def test_the_folder_of_a_run_is_removed_only_if_nothing_was_logged(tmp_path):
    first, _ = make_loggers(claim_folder(tmp_path, "name"))
    folder = Path(first.log_dir)
    (folder / "config.yaml").touch()
    remove_unused(folder)
    assert not (tmp_path / "lightning_logs").exists()
    _, second = make_loggers(claim_folder(tmp_path, "name"))
    second.log_metrics({"epoch": 0, "val/acc": 0.5}, step=1)
    remove_unused(Path(second.log_dir))
    assert (Path(second.log_dir) / "metrics.csv").is_file()


def test_a_log_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "lightning_logs").touch()
    with pytest.raises(InputError) as error:
        claim_folder(tmp_path, "name")
    assert "a writable log folder" in str(error.value)
    assert f"`{tmp_path}/lightning_logs/name` (Not a directory)" in str(error.value)
    assert "`--trainer.default_root_dir`" in str(error.value)
