"""One folder a run, `lightning_logs/<name>/<version>/`, for every logger and checkpoint."""

import os
import re
import shutil
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.cli.logs import make_loggers
from lit_prune.errors import expected

__all__ = ["abandon", "claim_version", "default_loggers"]

_CLAIMED = "LIT_PRUNE_CLAIMED_VERSION"


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


def abandon(folder: Path) -> None:
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
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise expected("`--name` to be a folder below lightning_logs", f"`{name}`", "give a plain name")
    logs = root / "lightning_logs" / name
    return make_loggers(logs / f"version_{claim_version(logs)}")
