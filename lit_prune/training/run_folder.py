"""The folder of one run, `lightning_logs/<name>/version_<n>/`: what its files are called, and which process owns it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import write_text

# the names of all files and folders of a run
LOGS = "lightning_logs"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # the last checkpoint but one
BEST = "best-epoch="  # start of the best checkpoint's name; Lightning counts its epochs from 0
CONFIG = "config.yaml"
METRICS = "metrics.csv"
EVENTS = "events.out.tfevents."  # start of the names of TensorBoard's files
PREDICTIONS = "predictions.csv"
SUMMARY = "summary.txt"  # written when a training has finished
LOCK = ".lock"  # locked while a process trains in the folder; if it were removed, two could
# and of a run of a study
RESULT = "result.json"
ERROR = "error.txt"
LOG = "log.txt"

_CLAIMED = "LIT_PRUNE_CLAIMED_VERSION"
_LONGEST_NAME = 255  # bytes, on Linux, macOS and Windows


def is_rank_zero() -> bool:
    """Whether this process writes the run's files: the only one, or the first of a distributed strategy."""
    from lightning.pytorch.utilities import rank_zero_only  # slow, and readers of these names do not need it

    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]  # Lightning sets it on the function


def log_folder(root: Path, name: str) -> Path:
    """Return the folder that holds all versions of a run.

    Raises:
        InputError: If the name is too long, or names a folder outside `lightning_logs`.
    """
    parts = Path(name).parts
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        found = f"one of {len(name)} characters"
        raise expected(f"`--name` to have at most {_LONGEST_NAME} bytes a folder", found, "choose a shorter name")
    if not parts or ".." in parts or Path(name).is_absolute() or not name.isprintable():
        shown = name if name.isprintable() else name.encode("unicode_escape").decode()
        raise expected(f"`--name` to be a folder below {LOGS}", f"`{shown}`", "choose a name such as `first`")
    return root / LOGS / name


def find_versions(folder: Path) -> dict[int, Path]:
    """Find the run folders `version_<n>` in a folder, by number; none if the folder does not exist."""
    return {
        int(match[1]): path
        for path in folder.glob("version_*")
        if (match := re.fullmatch(r"version_(\d+)", path.name)) is not None
    }


def claim_version(folder: Path) -> int:
    """Create the next free folder `version_<n>`, and return n; runs that start at once never get the same one.

    Other processes of a distributed strategy inherit the number from the process that launched them.

    Raises:
        InputError: If the folder cannot be written.
    """
    if not is_rank_zero():  # on another node no number is inherited, and none is needed: rank zero writes everything
        return int(os.environ.get(_CLAIMED, "0"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        number = max(find_versions(folder), default=-1) + 1
        while True:
            try:
                (folder / f"version_{number}").mkdir()
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        found, hint = f"`{folder}` ({error.strerror})", "choose another one with `--trainer.default_root_dir`"
        raise expected("a log folder that can be written", found, hint) from error
    os.environ[_CLAIMED] = str(number)
    return number


def remove_unused(folder: Path) -> None:
    """Remove the folder of a run that failed before it wrote a metric, a checkpoint or a prediction."""
    if not folder.is_dir() or any((folder / name).exists() for name in (METRICS, CHECKPOINTS, PREDICTIONS)):
        return
    shutil.rmtree(folder)
    for parent in (folder.parent, folder.parent.parent):  # the run's name, and lightning_logs
        if any(parent.iterdir()):
            break
        parent.rmdir()


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Keep other processes from training in a folder; the system releases the lock of a process that dies.

    Raises:
        InputError: If another process is training there.
        OSError: If the folder cannot be written.
    """
    if not is_rank_zero():
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(
            f"Another process is training in `{folder}`. Wait for it, or leave out `--resume` to start another run."
        ) from error
    try:
        yield
    finally:
        lock.release()


def mark_finished(folder: Path, summary: str) -> None:
    """Write the summary of a finished training, and remove the checkpoint kept in case the last one is damaged."""
    (folder / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)
    write_text(folder / SUMMARY, summary + "\n")
