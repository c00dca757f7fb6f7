"""A disk that is really full: one sentence, no damaged file, and the work continues once there is room again.

For the report and its figures see `tests/study/report/test_report.py`, for a study of our model
`tests/study/run/test_running.py`.
"""

import csv
import shutil
from pathlib import Path

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_prune.data import cifar10
from lit_prune.errors import UnfinishedError
from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.study.results.results import read_results
from lit_prune.training.loggers import make_loggers, sync_logs, truncate_logs
from tests.data import fake
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10
from tests.faults.conftest import FIT, KiB
from tests.faults.modules import FillDisk

FULL = "No space left on device"


def fill(disk, epoch, room=0):
    """Options that fill the disk at the start of an epoch."""
    name = "--trainer.callbacks"
    return [
        f"{name}+=tests.faults.modules.FillDisk",
        f"{name}.folder={disk.folder}",
        f"{name}.epoch={epoch}",
        f"{name}.room={room}",
    ]


def epochs_of(folder, name="train/loss"):
    """The epochs that have a row, in the order of the file; checks that every row is complete."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert {len(row) for row in rows} == {len(header)}
    return [int(row[header.index("epoch")]) for row in rows if row[header.index(name)]]


def steps_of(folder, tag="train/loss"):
    """The steps that TensorBoard reads; it stops at half an event."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    return [event.step for event in events.Scalars(tag)]


@pytest.mark.parametrize("room", [0, 64 * KiB])
def test_a_checkpoint_without_room_leaves_the_previous_one(run, disk, room, monkeypatch):
    # a checkpoint has 1.6 MB: there is room for those of epochs 0 and 1, and none for that of epoch 2
    argv = [*FIT, "--model.hidden=20000", "--trainer.max_epochs=4", f"--trainer.default_root_dir={disk.folder}"]
    answer = run(*argv, *fill(disk, 2, room))
    assert answer.status == 1
    assert FULL in answer.complaint
    (folder,) = disk.folder.glob("lightning_logs/*/version_0")
    assert f"Free some space, then resume with `lit-prune fit --resume {folder}`." in answer.complaint
    found = {path.name: read_checkpoint(path)["epoch"] for path in (folder / "checkpoints").iterdir()}
    assert found == {"last.ckpt": 1, "previous.ckpt": 0}
    assert epochs_of(folder) == steps_of(folder) == [0, 1]
    # with room again the run resumes in its folder, and no epoch is missing or logged twice
    disk.resize(64 << 20)
    monkeypatch.setattr(FillDisk, "armed", False)
    answer = run(*argv, f"--resume={folder}")
    assert answer.status == 0, answer.err
    assert read_checkpoint(folder / "checkpoints/last.ckpt")["epoch"] == 3
    assert epochs_of(folder) == steps_of(folder) == [0, 1, 2, 3]


def test_logs_without_room_stop_the_run_and_stay_complete(run, disk):
    argv = [*FIT, "--trainer.max_epochs=60", "--trainer.enable_checkpointing=false"]
    answer = run(*argv, f"--trainer.default_root_dir={disk.folder}", *fill(disk, 1))
    assert answer.status == 1
    assert FULL in answer.complaint
    assert "Exception in thread" not in answer.err
    (folder,) = disk.folder.glob("lightning_logs/*/version_0")
    rows, events = epochs_of(folder), steps_of(folder)
    assert 1 <= len(events) < 60
    assert events == list(range(len(events)))
    assert rows in (events, events[:-1])
    assert not list(folder.rglob("*.part"))


@pytest.mark.parametrize("which", [0, 1], ids=["events", "rows"])
@pytest.mark.parametrize("columns", [False, True], ids=["same columns", "new columns"])
def test_a_logger_that_failed_loses_nothing_and_continues(disk, which, columns):
    folder = disk.folder / "run" / "seed=0"
    logger = make_loggers(folder)[which]
    suffix = "x" * 5000 if columns else ""  # for a new column the whole file is rewritten

    def log(epoch, extra=""):
        logger.log_metrics({"train/loss": epoch / 7, "epoch": epoch} | ({extra: 0.5} if extra else {}), epoch)
        logger.save()

    def read():
        return epochs_of(folder) if which else steps_of(folder)

    for epoch in range(3):
        log(epoch)
    disk.leave(0)
    epoch = 2
    with pytest.raises(OSError, match="No space left on device"):  # noqa: PT012 - it takes a while to fill the last page
        while epoch < 500:
            epoch += 1
            log(epoch, suffix)
    assert epoch < 500
    before = {path: path.read_bytes() for path in folder.iterdir()}
    assert read() == list(range(epoch))
    # another attempt fails and writes nothing either
    with pytest.raises(OSError, match="No space left on device"):
        sync_logs([logger])
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    disk.resize(64 << 20)
    log(epoch + 1)
    logger.finalize("success")
    assert read() == list(range(epoch + 2))


def test_half_a_row_on_a_full_disk_is_removed_when_the_run_resumes(disk):
    folder = disk.folder / "run" / "seed=0"
    loggers = make_loggers(folder)
    for logger in loggers:
        logger.log_metrics({"train/loss": 0.5, "epoch": 0}, 0)
    positions = sync_logs(loggers)
    before = (folder / "metrics.csv").read_bytes()
    # written by another program, since ours never leaves half a row
    disk.leave(0)
    with pytest.raises(OSError, match="No space left"), (folder / "metrics.csv").open("ab", buffering=0) as file:
        file.writelines([b"1,1,0." + b"4" * 4096] * 2)
    assert (folder / "metrics.csv").stat().st_size == 4096
    disk.resize(64 << 20)
    truncate_logs(folder, positions)
    assert (folder / "metrics.csv").read_bytes() == before
    later = make_loggers(folder)
    later[1].log_metrics({"train/loss": 0.25, "epoch": 1}, 1)
    assert epochs_of(folder) == [0, 1]


def test_a_configuration_without_room_leaves_no_run_folder(run, disk):
    argv = [*FIT, "--trainer.max_epochs=1", f"--trainer.default_root_dir={disk.folder}"]
    disk.leave(0)
    answer = run(*argv)
    assert answer.status == 1
    assert FULL in answer.complaint
    assert list(disk.folder.iterdir()) == []
    disk.resize(64 << 20)
    answer = run(*argv)
    assert answer.status == 0, answer.err
    (config,) = disk.folder.glob("lightning_logs/*/version_0/config.yaml")
    assert yaml.safe_load(config.read_text())["trainer"]["max_epochs"] == 1


def test_predictions_without_room_leave_no_partial_file(run, disk):
    answer = run(*FIT, "--trainer.max_epochs=1")
    assert answer.status == 0, answer.err
    (checkpoint,) = Path("lightning_logs").glob("*/version_0/checkpoints/last.ckpt")
    argv = ["predict", *FIT[1:-1], "--data.points=2000", f"--ckpt_path={checkpoint}"]
    argv.append(f"--trainer.default_root_dir={disk.folder}")
    disk.leave(16 * KiB)
    answer = run(*argv)
    assert answer.status == 1
    assert FULL in answer.complaint
    assert not list(disk.folder.rglob("predictions.csv"))
    assert not list(disk.folder.rglob("*.part"))
    disk.resize(64 << 20)
    answer = run(*argv)
    assert answer.status == 0, answer.err
    (table,) = disk.folder.rglob("predictions.csv")
    assert len(table.read_text().splitlines()) == 2001


# no room at all; none to unpack the archive; none to write an array
@pytest.mark.parametrize("room", [0, 64 * KiB, 250 * KiB])
def test_data_without_room_leave_no_partial_array(disk, fake_cifar10, room):
    shutil.copy(fake_cifar10, disk.folder)
    disk.leave(room)
    with pytest.raises(UnfinishedError, match=FULL):
        cifar10.prepare(disk.folder, ["train", "test"])
    left = {path.name for path in disk.folder.rglob("*")}
    assert left <= {fake_cifar10.name, "cifar10-arrays", "train_images.npy", "train_labels.npy", "test_images.npy"}
    for split in ("train", "test"):
        for path in cifar10._paths(disk.folder, split):
            assert cifar10._fault(path) in (None, "no such file")
    disk.resize(64 << 20)
    cifar10.prepare(disk.folder, ["train", "test"])
    assert len(cifar10.open_split(disk.folder, "train").labels) == fake.SIZES["train"]


@pytest.mark.slow
def test_a_study_on_a_full_disk_reports_its_runs_and_continues_later(run, disk, tmp_path):
    content = {
        "name": "full",
        "seeds": [0, 1],
        "settings": {
            "model": {"class_path": "tests.faults.modules.Line", "init_args": {"hidden": 20_000}},
            "data": {"class_path": "tests.faults.modules.Points"},
            "trainer": {"accelerator": "cpu", "max_epochs": 2},
        },
        "metrics": {"train_loss": "train/loss", "val_loss": "val/loss", "test_loss": "test/loss"},
        "experiments": [{"name": "line"}],
    }
    (tmp_path / "full.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    out = disk.folder / "out"
    disk.leave(2 << 20)
    answer = run("study", "full.yaml", "--out", str(out), "--jobs", "1")
    assert answer.status == 1
    failed = [line for line in answer.err.splitlines() if line.startswith("lit-prune: Run `line`, seed ")]
    assert failed
    assert all(FULL in line for line in failed)
    assert "Traceback" not in answer.err
    assert not list(disk.folder.rglob("*.part"))
    for path in out.rglob("*.ckpt"):
        read_checkpoint(path)
    disk.resize(64 << 20)
    answer = run("study", "full.yaml", "--out", str(out), "--jobs", "1")
    assert answer.status == 0, answer.err
    assert [each.status for each in read_results(out).runs] == ["complete"] * 2
