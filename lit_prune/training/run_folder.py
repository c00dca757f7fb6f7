"""The run folder `lightning_logs/<name>/version_<n>/`: names of its files, and functions that create and lock it."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import write_text

# names of the files and folders of a run
LOGS = "lightning_logs"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # the last.ckpt before the current one
BEST = "best-epoch="  # start of the name of the best checkpoint; the epoch counts from 0, as in Lightning
CONFIG = "config.yaml"
METRICS = "metrics.csv"
EVENTS = "events.out.tfevents."  # start of the name of each TensorBoard file
PREDICTIONS = "predictions.csv"
SUMMARY = "summary.txt"  # written when training has finished
LOCK = ".lock"  # locked while a process trains in the folder; if it is removed, a second process could train there
# further files in the run folders of a study
RESULT = "result.json"
ERROR = "error.txt"
LOG = "log.txt"

_CLAIMED = "LIT_PRUNE_CLAIMED_VERSION"
_LONGEST_NAME = 255  # bytes; the limit for a file name on Linux, macOS and Windows


def is_rank_zero() -> bool:
    """Whether this process writes the run's files: if a run uses several processes, only the first one does."""
    from lightning.pytorch.utilities import rank_zero_only  # imported late, because Lightning is slow to import

    return bool(rank_zero_only.rank == 0)  # type: ignore[attr-defined]  # Lightning sets it on the function


def log_folder(root: Path, name: str) -> Path:
    """Return the folder that holds all runs called `name`: `<root>/lightning_logs/<name>`.

    Raises:
        InputError: If the name is empty, too long, or not printable, or leads out of `lightning_logs`.
    """
    parts = Path(name).parts
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        found = f"a name of {len(name)} characters"
        raise expected(f"`--name` with folder names of at most {_LONGEST_NAME} bytes", found, "choose a shorter name")
    if not parts or ".." in parts or Path(name).is_absolute() or not name.isprintable():
        shown = name if name.isprintable() else name.encode("unicode_escape").decode()
        raise expected(f"`--name` to be a folder below {LOGS}", f"`{shown}`", "choose a name such as `first`")
    return root / LOGS / name


def find_versions(folder: Path) -> dict[int, Path]:
    """Return the run folders `version_<n>` in a folder, by number; an empty dictionary if the folder does not exist."""
    return {
        int(match[1]): path
        for path in folder.glob("version_*")
        if (match := re.fullmatch(r"version_(\d+)", path.name)) is not None
    }


def claim_folder(root: Path, name: str) -> Path:
    """Create the next free folder `lightning_logs/<name>/version_<n>` below `root`, and return it.

    Raises:
        InputError: If the name cannot be used (see `log_folder`), or the folder cannot be created.
    """
    logs = log_folder(root, name)
    return logs / f"version_{claim_version(logs)}"


def claim_version(folder: Path) -> int:
    """Create the next free folder `version_<n>`, and return n; runs that start simultaneously get different folders.

    If a run uses several processes, only the first one creates the folder; the others read n from the environment.

    Raises:
        InputError: If the folder cannot be created.
    """
    if not is_rank_zero():  # on other nodes the variable is not set; any number will do, since only rank zero writes
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
        raise expected("a writable log folder", found, hint) from error
    os.environ[_CLAIMED] = str(number)
    return number


def remove_unused(folder: Path) -> None:
    """Remove the folder of a run that failed before it wrote a metric, a checkpoint or a prediction."""
    if not folder.is_dir() or any((folder / name).exists() for name in (METRICS, CHECKPOINTS, PREDICTIONS)):
        return
    shutil.rmtree(folder)
    for parent in (folder.parent, folder.parent.parent):  # lightning_logs/<name>, then lightning_logs
        if any(parent.iterdir()):
            break
        parent.rmdir()


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Lock a run folder while a process trains in it; if the process dies, the operating system releases the lock.

    Raises:
        InputError: If another process is training in the folder.
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
            f"Another process is training in `{folder}`. Wait until it ends, or omit `--resume` to start another run."
        ) from error
    try:
        yield
    finally:
        lock.release()


def mark_finished(folder: Path, summary: str) -> None:
    """Write the summary of a finished training, and remove `previous.ckpt`, which is no longer needed."""
    (folder / CHECKPOINTS / PREVIOUS).unlink(missing_ok=True)
    write_text(folder / SUMMARY, summary + "\n")
