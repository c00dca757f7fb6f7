"""Read-only folders: refused in one sentence before anything is computed, and read where reading is enough."""

import errno
import shutil

import pytest
import yaml

from lit_prune.data import cifar10
from lit_prune.errors import InputError
from lit_prune.training.loggers import make_loggers, sync_logs
from tests.data import fake
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10
from tests.faults.conftest import FIT
from tests.study.folders import SMALL, make_study


def test_a_run_is_refused_where_it_cannot_write_logs(run, disk):
    disk.freeze()
    answer = run(*FIT, "--trainer.max_epochs=1", f"--trainer.default_root_dir={disk.folder}")
    assert answer.status == 2
    assert f"`{disk.folder}/lightning_logs/Line` (Read-only file system)" in answer.complaint
    assert "`--trainer.default_root_dir`" in answer.complaint
    assert list(disk.folder.iterdir()) == []


@pytest.mark.parametrize("which", [0, 1], ids=["events", "rows"])
def test_a_disk_that_becomes_read_only_damages_no_log(disk, which, snapshot):
    logger = make_loggers(disk.folder / "run" / "seed=0")[which]
    logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    positions, before = sync_logs([logger]), snapshot(disk.folder)
    disk.freeze()
    with pytest.raises(OSError, match="Read-only file system") as error:  # noqa: PT012 - either line writes
        logger.log_metrics({"train/loss": 0.25, "epoch": 1}, 1)
        logger.save()
    assert error.value.errno == errno.EROFS
    assert snapshot(disk.folder) == before
    disk.freeze(False)
    logger.save()
    after = sync_logs([logger])
    assert after != positions


def test_a_complete_cache_is_read_and_an_incomplete_one_is_refused(disk, fake_cifar10, snapshot):
    shutil.copy(fake_cifar10, disk.folder)
    cifar10.prepare(disk.folder, ["train"])
    before = snapshot(disk.folder)
    disk.freeze()
    cifar10.prepare(disk.folder, ["train"])
    assert len(cifar10.open_split(disk.folder, "train").labels) == fake.SIZES["train"]
    with pytest.raises(InputError, match="Read-only file system") as error:
        cifar10.prepare(disk.folder, ["test"])
    assert str(disk.folder) in str(error.value)
    assert "`--data.data_dir`" in str(error.value)
    assert snapshot(disk.folder) == before


def test_a_damaged_cache_that_cannot_be_replaced_is_refused(disk, fake_cifar10, snapshot):
    shutil.copy(fake_cifar10, disk.folder)
    cifar10.prepare(disk.folder, ["train"])
    images, _ = cifar10._paths(disk.folder, "train")
    content = bytearray(images.read_bytes())
    content[-1] ^= 1
    images.write_bytes(content)
    before = snapshot(disk.folder)
    disk.freeze()
    with pytest.raises(InputError, match="Read-only file system"):
        cifar10.prepare(disk.folder, ["train"])
    with pytest.raises(InputError, match="the SHA-256"):
        cifar10.open_split(disk.folder, "train")
    assert snapshot(disk.folder) == before


def test_a_study_is_refused_where_it_cannot_be_written(run, disk, tmp_path):
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
        assert "read-only file system" in answer.complaint.lower()
        assert f"`{out}" in answer.complaint
    assert list(disk.folder.iterdir()) == []
    # a dry run writes nothing
    assert run("study", "tiny.yaml", "--out", str(disk.folder / "out"), "--dry_run").status == 0


@pytest.mark.parametrize("elsewhere", [False, True], ids=["of the study", "of --output"])
def test_a_report_is_refused_where_it_cannot_be_written(run, disk, tmp_path, snapshot, elsewhere):
    study = tmp_path / "study" if elsewhere else disk.folder
    make_study(study, SMALL | {"seeds": [0]})
    before = snapshot(disk.folder)
    disk.freeze()
    answer = run("report", str(study), *(["--output", str(disk.folder / "report.md")] if elsewhere else []))
    assert answer.status == 1
    assert "read-only file system" in answer.complaint.lower()
    assert str(disk.folder) in answer.complaint
    assert snapshot(disk.folder) == before
