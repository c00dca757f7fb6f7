"""`fit --resume`, after SIGTERM, SIGINT, damaged checkpoints and finished runs."""

import os
import random
import shutil
import signal
import struct
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from crash_test import differences, rows
from filelock import FileLock

from lit_prune import LitResNet18
from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.main import main
from lit_prune.training.checkpoint_io import AtomicCheckpointIO
from lit_prune.training.resuming import is_finished
from tests.training.conftest import NARROW, TINY, Run

FOLDER = Path("lightning_logs/x/version_0")
LAST = FOLDER / "checkpoints" / "last.ckpt"
# temporary freezing, gradual pruning, removal of masks and the monitor, in 3 epochs of 4 batches
OPTIONS = [
    *TINY,
    "--model=tests.training.small.SmallNet",
    "--name=x",
    "--trainer.max_epochs=3",
    "--trainer.callbacks+=LayerFreezing",
    "--trainer.callbacks.fraction=0.3",
    "--trainer.callbacks.unfreeze_epoch=1",
    "--trainer.callbacks+=GlobalL1Pruning",
    "--trainer.callbacks.amount=0.5",
    "--trainer.callbacks.end_epoch=1",
    "--trainer.callbacks+=PruningRemoval",
    "--trainer.callbacks.epoch=2",
    "--trainer.callbacks+=SparsityMonitor",
]


def assert_same_run(folder: Path, other: Path) -> None:
    """Compare weights, masks, optimizer, schedulers, metrics and events of two finished runs."""
    assert list(differences(folder, other)) == []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never interrupted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        assert main(["fit", *OPTIONS]) == 0
        return FOLDER.absolute()


def interrupting(hook: str, step: int, marker: str = "sent", number: int = signal.SIGTERM) -> list[str]:
    given = {"hook": hook, "step": step, "marker": marker, "number": int(number)}
    return [
        "--trainer.callbacks+=tests.training.interrupting.Interrupting",
        *(f"--trainer.callbacks.{name}={value}" for name, value in given.items()),
    ]


@pytest.mark.parametrize(
    ("hook", "step", "number", "when"),
    [
        ("on_train_batch_start", 1, signal.SIGTERM, "in epoch 0"),
        ("on_before_optimizer_step", 6, signal.SIGINT, "in epoch 1"),
        ("on_train_batch_end", 6, signal.SIGTERM, "in epoch 1"),
        ("on_after_backward", 7, signal.SIGTERM, "after 2 of 3 epochs"),  # the last batch of an epoch
        ("on_validation_batch_start", 8, signal.SIGINT, "after 2 of 3 epochs"),
        ("on_train_epoch_end", 4, signal.SIGTERM, "after 1 of 3 epochs"),
        ("on_train_epoch_start", 8, signal.SIGINT, "after 2 of 3 epochs"),
    ],
)
@pytest.mark.gate
def test_a_signal_saves_a_checkpoint_and_prints_the_command_that_resumes(run, whole, hook, step, number, when):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    argv = [*OPTIONS, *interrupting(hook, step, number=number)]
    stopped = run("fit", *argv, "--resume")
    assert stopped.status == 128 + number
    assert stopped.complaint == (
        f"Stopped by {signal.Signals(number).name} {when}; everything is saved. "
        f"Resume with `lit-prune fit --resume {FOLDER}`."
    )
    assert read_checkpoint(LAST)["global_step"] >= step
    assert not (FOLDER / "summary.txt").exists()
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before

    assert run("fit", "--resume", str(FOLDER)).status == 0  # as the message says
    assert_same_run(FOLDER, whole)
    assert (FOLDER / "summary.txt").is_file()
    assert not list(FOLDER.rglob("*.part"))
    assert not (FOLDER / "checkpoints" / "previous.ckpt").exists()


def test_a_signal_before_training_stops_at_once_and_leaves_no_files(run):
    stopped = run("fit", *OPTIONS, *interrupting("on_fit_start", 0))
    assert stopped.status == 143
    assert stopped.complaint
    assert not Path("lightning_logs").exists()


def test_the_same_command_starts_resumes_and_then_reports_a_finished_run(run, whole):
    argv = [*OPTIONS, *interrupting("on_train_batch_end", 5), "--resume"]
    assert run("fit", *argv).status == 143
    assert run("fit", *argv).status == 0
    assert_same_run(FOLDER, whole)
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    again = run("fit", *argv)
    assert again.status == 0
    assert again.out.startswith(f"The run in {FOLDER} is finished.")
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")} == before
    assert [path.name for path in FOLDER.parent.iterdir()] == ["version_0"]


@pytest.mark.gate
def test_our_model_resumes_with_its_best_epoch(run, tmp_path):
    argv = [NARROW, *(word for word in OPTIONS if not word.startswith("--model"))]
    assert run("fit", *argv).status == 0
    shutil.move(FOLDER, tmp_path / "whole")
    assert run("fit", *argv, *interrupting("on_after_backward", 5), "--resume").status == 143
    flip(LAST)
    answer = run("fit", *argv, "--resume")
    assert "lit-prune: skipped a checkpoint: " in answer.err
    assert_same_run(FOLDER, tmp_path / "whole")
    best = [sorted(path.name for path in f.glob("checkpoints/best*")) for f in (FOLDER, tmp_path / "whole")]
    assert best[0] == best[1] != []


def test_a_better_epoch_replaces_the_best_checkpoint_that_the_run_resumed_from(run, monkeypatch):
    def improve(model: LitResNet18, *_: object) -> None:
        model.log_dict({"val/acc": model.current_epoch / 10, "val/loss": 1.0})

    monkeypatch.setattr(LitResNet18, "validation_step", improve)
    argv = [*TINY, NARROW, "--name=x", "--resume"]
    assert run("fit", *argv, "--trainer.max_epochs=1").status == 0
    LAST.unlink()
    assert [path.name for path in LAST.parent.iterdir()] == ["best-epoch=000-val_acc=0.0000.ckpt"]
    assert run("fit", *argv, "--trainer.max_epochs=3").status == 0
    assert sorted(path.name for path in LAST.parent.iterdir()) == ["best-epoch=002-val_acc=0.2000.ckpt", "last.ckpt"]


def test_a_finished_run_can_be_trained_for_longer(run, whole):
    shutil.copytree(whole, FOLDER)
    assert run("fit", "--resume", str(FOLDER), "--trainer.max_epochs=4").status == 0
    assert [row["epoch"] for row in rows(FOLDER / "metrics.csv") if "train/loss" in row] == ["0", "1", "2", "3"]
    longer = rows(FOLDER / "metrics.csv")
    assert longer[: len(rows(whole / "metrics.csv"))] == rows(whole / "metrics.csv")


def test_a_run_that_another_limit_ended_is_trained_for_longer(run):
    argv = [*TINY, "--model=tests.training.small.SmallNet", "--name=x", "--resume", "--trainer.max_time=00:01:00:00"]
    assert run("fit", *argv, "--trainer.max_steps=2").status == 0
    assert read_checkpoint(LAST)["global_step"] == 2
    assert run("fit", *argv, "--trainer.max_steps=2").out.startswith(f"The run in {FOLDER} is finished.")
    assert run("fit", *argv, "--trainer.max_steps=6").status == 0
    content = read_checkpoint(LAST)
    assert content["global_step"] == 6
    limits = {"max_epochs": 30, "max_steps": 6, "max_time": "00:01:00:00"}
    assert is_finished(FOLDER, content, limits)
    assert not is_finished(FOLDER, content, limits | {"max_time": "00:02:00:00"})


@pytest.fixture
def cut(run: Run, whole: Path) -> Path:
    """The folder with the checkpoints of a run that was stopped in its last epoch: last.ckpt and previous.ckpt."""
    assert run("fit", *OPTIONS, *interrupting("on_train_batch_end", 10)).status == 143
    assert sorted(path.name for path in LAST.parent.iterdir()) == ["last.ckpt", "previous.ckpt"]
    return LAST.parent


def flip(path: Path) -> None:
    """Flip one bit in a record of the zip archive; in the padding between records, it would damage nothing."""
    draw = random.SystemRandom()
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = draw.choice([record for record in archive.infolist() if record.file_size])
    lengths = struct.unpack_from("<HH", content, record.header_offset + 26)  # of the record's name and extra field
    content[record.header_offset + 30 + sum(lengths) + draw.randrange(record.file_size)] ^= 16
    path.write_bytes(content)


def truncate(path: Path) -> None:
    os.truncate(path, random.SystemRandom().randrange(1, path.stat().st_size))


@pytest.mark.parametrize("damage", [flip, truncate, lambda path: path.write_bytes(b"")])
@pytest.mark.gate
def test_a_damaged_checkpoint_is_reported_and_skipped(run, whole, cut, damage):
    times = LAST.stat().st_atime_ns, LAST.stat().st_mtime_ns
    damage(LAST)
    os.utime(LAST, ns=times)
    answer = run("fit", *OPTIONS, "--resume")
    assert answer.status == 0
    skipped = [line for line in answer.err.splitlines() if line.startswith("lit-prune: skipped a checkpoint: ")]
    assert len(skipped) == 1
    assert f"`{LAST}`" in skipped[0]
    assert f"Resuming from `{cut}/previous.ckpt`" in skipped[0]
    assert_same_run(FOLDER, whole)


def test_a_run_whose_checkpoints_are_all_damaged_is_left_unchanged(run, cut):
    for path in cut.glob("*.ckpt"):
        flip(path)
    before = {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()}
    answer = run("fit", *OPTIONS, "--resume")
    assert answer.status == 2
    assert f"a checkpoint in `{cut}` from which training can resume, but got none: " in answer.complaint
    assert all(f"{name}.ckpt" in answer.complaint for name in ("last", "previous"))
    assert {path: path.read_bytes() for path in FOLDER.rglob("*") if path.is_file()} == before


def test_a_run_without_a_checkpoint_starts_again_in_its_folder(run, whole, cut):
    shutil.rmtree(cut)
    (FOLDER / "left.part").touch()
    assert run("fit", *OPTIONS, "--resume").status == 0
    assert_same_run(FOLDER, whole)
    assert not (FOLDER / "left.part").exists()


def test_a_folder_in_which_another_process_trains_is_left_unchanged(run, cut):
    before = {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")}
    with FileLock(FOLDER / ".lock"):
        answer = run("fit", *OPTIONS, "--resume")
    assert answer.status == 2
    assert f"Another process is training in `{FOLDER}`." in answer.complaint
    assert {path: path.stat().st_mtime_ns for path in FOLDER.rglob("*")} == before


def test_resuming_needs_the_folder_of_a_run(run):
    for argv, phrase in [
        (["--resume=nowhere"], "but got `nowhere`, which is not a folder"),
        (["--resume", "."], "but got `.`, which holds no config.yaml"),
        (["--resume", "--ckpt_path=a.ckpt"], "one of `--resume` and `--ckpt_path`, but got both"),
        (["--resume", "--trainer.logger=false"], "the default loggers together with `--resume`"),
        (["--resume", "--name=../up"], "`--name` to be a folder below lightning_logs, but got `../up`"),
    ]:
        answer = run("fit", *TINY, *argv)
        assert answer.status == 2
        assert phrase in answer.complaint
        assert not Path("lightning_logs").exists()
    assert "`--resume`" in run("test", *TINY, "--resume").complaint


def test_a_checkpoint_of_a_newer_version_is_refused(run, cut):
    content = read_checkpoint(LAST)
    content["lit_prune"]["format"] = 99
    torch.save(content, "future.ckpt")
    complaint = run("test", *TINY, "--ckpt_path=future.ckpt").complaint
    assert "format 1 or older" in complaint
    assert "`future.ckpt` in format 99" in complaint
    assert "`pip install --upgrade lit-prune`" in complaint


def test_resuming_removes_only_what_a_run_writes(run):
    folder = Path("own")
    (folder / "source").mkdir(parents=True)
    (folder / "source" / "model.py").write_text("x")
    (folder / "thesis.txt").write_text("x")
    (folder / "config.yaml").write_text("trainer: {max_epochs: 1}\n")
    (folder / "metrics.csv").write_text("epoch,old\n7,8\n")
    answer = run("fit", *TINY, "--model=tests.training.small.SmallNet", f"--resume={folder}")
    assert answer.status == 0, answer.err
    assert (folder / "thesis.txt").read_text() == (folder / "source" / "model.py").read_text() == "x"
    assert "old" not in (folder / "metrics.csv").read_text()


@pytest.mark.parametrize("given", ["", "home"])
def test_a_folder_that_is_not_a_run_is_refused_wherever_it_is_named(run, given):
    Path("home").mkdir()
    (Path("home") / "document.txt").write_text("x")
    Path("resume.yaml").write_text(f"resume: '{given}'\n")
    for argv in (["--config=resume.yaml"], [f"--resume={given}"]):
        answer = run("fit", *TINY, *argv)
        assert answer.status == 2
        assert "`--resume`" in answer.complaint
    assert (Path("home") / "document.txt").read_text() == "x"


def test_a_run_below_a_path_with_dots_is_read_again(run):
    Path("here").mkdir()
    root = Path("here") / ".." / "here"
    options = ["--model=tests.training.small.SmallNet", "--name=x", f"--trainer.default_root_dir={root.absolute()}"]
    assert run("fit", *TINY, *options, "--trainer.max_epochs=1").status == 0
    read_checkpoint(Path("here") / LAST)


def test_only_checkpoint_files_are_removed_as_checkpoints(tmp_path):
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    for name in ("a.ckpt", "a.txt"):
        (tmp_path / name).write_text("x")
    for name in ("folder", "a.ckpt", "a.txt", "missing.ckpt"):
        AtomicCheckpointIO().remove_checkpoint(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "folder"]
    assert (tmp_path / "folder" / "inner").is_dir()


def test_the_next_checkpoint_after_a_kill_between_two_renames_leaves_no_temporary_file(tmp_path):
    last, previous = tmp_path / LAST.name, tmp_path / "previous.ckpt"
    plugin = AtomicCheckpointIO()
    content: dict[str, Any] = {"state_dict": {"weight": torch.rand(2)}, "pytorch-lightning_version": "2.6.0"}
    plugin.save_checkpoint(content | {"number": 1}, last)
    previous.hardlink_to(last)  # the next last.ckpt was not renamed in time
    for number in (2, 3):
        plugin.save_checkpoint(content | {"number": number}, last)
        assert {path.name for path in tmp_path.iterdir()} == {last.name, previous.name}
        assert read_checkpoint(last)["number"] == number
        assert read_checkpoint(previous)["number"] == number - 1
