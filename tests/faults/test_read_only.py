"""Folders that cannot be written to: refused in a sentence before anything is computed, read where that is enough."""

import errno
import shutil

import pytest
import yaml

from lit_prune.data import arrays
from lit_prune.errors import InputError
from lit_prune.training.loggers import log_positions, make_loggers
from tests.data import fake
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10
from tests.faults.conftest import FIT
from tests.study.folders import SMALL, make_study


def test_a_run_is_not_begun_where_it_cannot_be_logged(run, disk):
    disk.freeze()
    answer = run(*FIT, "--trainer.max_epochs=1", f"--trainer.default_root_dir={disk.folder}")
    assert answer.status == 2
    assert answer.complaint == (
        f"Expected a log folder that can be written, but got `{disk.folder}/lightning_logs/resnet18` (Read-only file "
        "system). HINT: give another with `--trainer.default_root_dir`, or free this one."
    )
    assert list(disk.folder.iterdir()) == []


@pytest.mark.parametrize("which", [0, 1], ids=["events", "rows"])
def test_a_disk_that_turns_read_only_spoils_no_log(disk, which, snapshot):
    logger = make_loggers(disk.folder / "run" / "seed=0")[which]
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    positions, before = log_positions([logger]), snapshot(disk.folder)
    disk.freeze()
    with pytest.raises(OSError, match="Read-only file system") as error:  # noqa: PT012 - one of the two writes
        logger.log_metrics({"train/loss": 0.25, "epoch": 1}, 1)
        logger.save()
    assert error.value.errno == errno.EROFS
    assert snapshot(disk.folder) == before
    disk.freeze(False)
    logger.save()
    after = log_positions([logger])
    assert after != positions


def test_a_complete_cache_is_read_and_an_incomplete_one_refused(disk, fake_cifar10, snapshot):
    shutil.copy(fake_cifar10, disk.folder)
    arrays.prepare(disk.folder, ["train"])
    before = snapshot(disk.folder)
    disk.freeze()
    arrays.prepare(disk.folder, ["train"])
    assert len(arrays.open_split(disk.folder, "train").labels) == fake.SIZES["train"]
    with pytest.raises(InputError) as error:
        arrays.prepare(disk.folder, ["test"])
    assert str(error.value) == (
        f"Expected a data folder '{disk.folder}' that can be written to, but got OSError (Read-only file system). "
        "HINT: name another one with `--data.data_dir`, or use `--data.source synthetic`."
    )
    assert snapshot(disk.folder) == before


def test_a_damaged_cache_that_cannot_be_replaced_is_refused(disk, fake_cifar10, snapshot):
    shutil.copy(fake_cifar10, disk.folder)
    arrays.prepare(disk.folder, ["train"])
    images, _ = arrays._paths(disk.folder, "train")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    before = snapshot(disk.folder)
    disk.freeze()
    with pytest.raises(InputError, match="that can be written to"):
        arrays.prepare(disk.folder, ["train"])
    with pytest.raises(InputError, match="but got the SHA-256"):
        arrays.open_split(disk.folder, "train")
    assert snapshot(disk.folder) == before


def test_a_study_is_not_begun_where_it_cannot_be_written(run, disk, tmp_path):
    content = {
        "name": "tiny",
        "settings": {
            "model": {"class_path": "tests.faults.modules.Line"},
            "data": {"class_path": "tests.faults.modules.Points"},
        },
        "experiments": [{"name": "line"}],
    }
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    disk.freeze()
    for out in (disk.folder, disk.folder / "out"):
        answer = run("study", "tiny.yaml", "--out", str(out))
        assert answer.status == 1
        assert "but got read-only file system. HINT: " in answer.complaint
        assert f"`{out}" in answer.complaint
    assert list(disk.folder.iterdir()) == []
    # what would be run can be seen
    assert run("study", "tiny.yaml", "--out", str(disk.folder / "out"), "--dry_run").status == 0


@pytest.mark.parametrize("elsewhere", [False, True], ids=["of the study", "of --output"])
def test_a_report_into_a_folder_that_cannot_be_written(run, disk, tmp_path, snapshot, elsewhere):
    study = tmp_path / "study" if elsewhere else disk.folder
    make_study(study, SMALL | {"seeds": [0]})
    before = snapshot(disk.folder)
    disk.freeze()
    answer = run("report", str(study), *(["--output", str(disk.folder / "report.md")] if elsewhere else []))
    assert answer.status == 1
    assert answer.complaint == (
        f"Expected to be able to write into `{disk.folder}`, but got read-only file system. "
        "HINT: free some space, or check whose folder it is."
    )
    assert snapshot(disk.folder) == before
