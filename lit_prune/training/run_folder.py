"""One folder a run, `lightning_logs/<name>/<version>/`, for every logger and checkpoint."""

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.errors import expected
from lit_prune.files.atomic import write_text
from lit_prune.files.checkpoint import KEY
from lit_prune.training.loggers import make_loggers

__all__ = [
    "LOCK",
    "claim_version",
    "default_loggers",
    "is_finished",
    "lock_run",
    "log_folder",
    "mark_finished",
    "remove_unused",
]

# every name of a file or folder that a run writes stands here, and nowhere else
LOGS = "lightning_logs"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
PREVIOUS = "previous.ckpt"  # the last checkpoint but one
BEST = "best-epoch="  # how the name of the best epoch's checkpoint begins; Lightning counts epochs from 0 there
CONFIG = "config.yaml"
METRICS = "metrics.csv"
PREDICTIONS = "predictions.csv"
SUMMARY = "summary.txt"  # written when a training has finished
LOCK = ".lock"  # held while a process trains in the folder; removing it could let two in
# and in a study's folder
RESULT = "result.json"
ERROR = "error.txt"
LOG = "log.txt"

_CLAIMED = "LIT_PRUNE_CLAIMED_VERSION"
# of Linux, macOS and Windows
_LONGEST_NAME = 255


def claim_version(folder: Path) -> int:
    """Make the next free `version_<n>` folder, and own it.

    The folder's creation is the claim, so two runs that start at once never share one. Processes that a
    strategy launches on the same machine inherit the claim of the process that launched them.

    Args:
        folder: Where the versions of a run's name are.

    Returns:
        The claimed number.

    Raises:
        InputError: If the folder cannot be written.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # an attribute that Lightning sets on the function
        # only rank zero writes; where no claim was inherited (another node), the name is never used
        return int(os.environ.get(_CLAIMED, "0"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = [int(m[1]) for path in folder.iterdir() if (m := re.fullmatch(r"version_(\d+)", path.name))]
        number = max(taken, default=-1) + 1
        while True:
            try:
                (folder / f"version_{number}").mkdir()
                break
            except FileExistsError:
                number += 1
    except OSError as error:
        raise expected(
            "a log folder that can be written",
            f"`{folder}` ({error.strerror})",
            "give another with `--trainer.default_root_dir`, or free this one",
        ) from error
    os.environ[_CLAIMED] = str(number)
    return number


def remove_unused(folder: Path) -> None:
    """Take back the folder of a run that never began, so that a mistake leaves no trace.

    Args:
        folder: The run's folder. It is left alone as soon as it holds a metric, a checkpoint or a prediction.
    """
    begun = ("metrics.csv", "checkpoints", "predictions.csv")
    if not folder.is_dir() or any((folder / name).exists() for name in begun):
        return
    shutil.rmtree(folder)
    for parent in (folder.parent, folder.parent.parent):  # the run's name, and lightning_logs
        if any(parent.iterdir()):
            break
        parent.rmdir()


def _check_name(name: str) -> None:
    parts = Path(name).parts
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        found = f"one of {len(name)} characters"
        raise expected(f"`--name` to have at most {_LONGEST_NAME} bytes a folder", found, "give a shorter name")
    if not parts or ".." in parts or Path(name).is_absolute() or not name.isprintable():
        shown = name.encode("unicode_escape").decode() if not name.isprintable() else name
        raise expected("`--name` to be a folder below lightning_logs", f"`{shown}`", "give a plain name")


def default_loggers(root: Path, name: str) -> list[TensorBoardLogger | CSVLogger]:
    """Make the TensorBoard and CSV loggers of one run, both in one folder.

    Args:
        root: The folder that holds `lightning_logs`.
        name: The run's name, a folder below `lightning_logs`.

    Returns:
        The two loggers; the first decides where checkpoints and `config.yaml` go.

    Raises:
        InputError: If the name leaves the folder, or the folder cannot be written.
    """
    logs = log_folder(root, name)
    return make_loggers(logs / f"version_{claim_version(logs)}")


def log_folder(root: Path, name: str) -> Path:
    """Say where the versions of a run's name are.

    Raises:
        InputError: If the name leaves the folder.
    """
    _check_name(name)
    return root / "lightning_logs" / name


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Make a run's folder this process's own for a while; the lock of a process that ends in whatever way is gone.

    Args:
        folder: The run's folder.

    Raises:
        InputError: If another process trains there.
        OSError: If the folder cannot be written.
    """
    if rank_zero_only.rank != 0:  # type: ignore[attr-defined]  # of a strategy's processes, one writes
        yield
        return
    lock = FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        hint = "wait for it, or leave out `--resume` to begin another run"
        raise expected(f"`{folder}` for this run alone", "another process that trains in it", hint) from error
    try:
        yield
    finally:
        lock.release()


def mark_finished(folder: Path, summary: str) -> None:
    """Note that a training has come to its end."""
    (folder / "checkpoints" / "previous.ckpt").unlink(missing_ok=True)
    write_text(folder / SUMMARY, summary + "\n")


def is_finished(folder: Path, stored: Mapping[str, Any], max_epochs: int | None) -> bool:
    """Say whether a run has come to its end, and is not to train for longer now.

    Args:
        folder: The run's folder.
        stored: The content of its last checkpoint.
        max_epochs: How long it is to train now.
    """
    return (folder / SUMMARY).is_file() and stored.get(KEY, {}).get("max_epochs") == max_epochs
