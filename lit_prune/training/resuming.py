"""Going on with a run that was cut off: its newest checkpoint that can be loaded, in the folder that it began in."""

import re
import shutil
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lit_prune.errors import InputError, expected
from lit_prune.files.checkpoint import read_checkpoint

__all__ = ["NEWEST", "Resumed", "find_run", "newest_loadable", "remove_stale_files", "with_own_config"]

# what `--resume` without a folder means: the newest run of this name
NEWEST = "newest"

# what is true of a run that has ended, or of a try that failed, and not of one that goes on
_OF_AN_ENDED_RUN = ("summary.txt", "error.txt")


class Resumed(NamedTuple):
    """Where a run goes on.

    Attributes:
        path: The checkpoint.
        content: What is in it.
    """

    path: Path
    content: dict[str, Any]


def with_own_config(argv: Sequence[str]) -> list[str]:
    """Let `fit --resume FOLDER` begin with the configuration in that folder, which typed options come after.

    Args:
        argv: The command and its options.

    Raises:
        InputError: If the folder is not that of a run.
    """
    argv = list(argv)
    given = [word.split("=", 1)[1] for word in argv if word.startswith("--resume=")]
    given += [after for word, after in pairwise(argv) if word == "--resume" and not after.startswith("-")]
    if not given or given[-1] == NEWEST or argv[0] != "fit":
        return argv
    config = Path(given[-1]) / "config.yaml"
    if not config.is_file():
        what = "which is no folder" if not Path(given[-1]).is_dir() else "which holds no config.yaml"
        hint = "give lightning_logs/NAME/version_N, or `--resume` alone for the newest run of this name"
        raise expected("`--resume` to name the folder of a run", f"`{given[-1]}`, {what}", hint)
    return [argv[0], f"--config={config}", *argv[1:]]


def find_run(logs: Path) -> Path | None:
    """Find the newest run of a name.

    Args:
        logs: The folder with the name's versions; it need not be there.

    Returns:
        The folder of the highest version, None if there is none.
    """
    versions = {int(m[1]): path for path in logs.glob("version_*") if (m := re.fullmatch(r"version_(\d+)", path.name))}
    return versions[max(versions)] if versions else None


def newest_loadable(folder: Path) -> Resumed | None:
    """Find the newest checkpoint of a run that training can go on from; those passed over are named on stderr.

    Args:
        folder: The run's folder.

    Returns:
        The checkpoint, verified and read; None if there is none at all.

    Raises:
        InputError: If there are some, and none of them can be gone on from.
    """
    paths = sorted((folder / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    faults: list[str] = []
    for path in paths:
        try:
            content = read_checkpoint(path)
            if "optimizer_states" in content:
                for fault in faults:
                    print(f"lit-prune: passed over: {fault} It goes on from `{path}`.", file=sys.stderr)
                return Resumed(path, content)
            faults.append(f"`{path}` holds no optimizer state.")
        except InputError as error:
            faults.append(str(error))
    if not paths:
        return None
    raise expected(
        f"a checkpoint in `{folder / 'checkpoints'}` that training can go on from",
        "none: " + " ".join(faults).rstrip("."),
        "start anew in another folder, without `--resume`",
    )


def remove_stale_files(folder: Path, stored: dict[str, Any] | None, kept: Sequence[str] = ()) -> None:
    """Take away what the checkpoint that a run goes on from does not know of; its logs are `rewind_logs`' to cut.

    Args:
        folder: The run's folder.
        stored: The checkpoint's content; None for a run that begins anew, which leaves nothing.
        kept: Names of files that stay in any case.

    Raises:
        OSError: If something cannot be taken away.
    """
    if stored is None:
        for item in folder.iterdir():
            if item.name not in kept:
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        return
    for name in _OF_AN_ENDED_RUN:
        (folder / name).unlink(missing_ok=True)
    states = [state for state in stored.get("callbacks", {}).values() if isinstance(state, dict)]
    known = {Path(str(state["best_model_path"])).name for state in states if "best_model_path" in state}
    for item in (folder / "checkpoints").iterdir():
        # half of a file, or a best epoch that has not happened as far as the checkpoint knows
        if item.suffix == ".part" or (item.name.startswith("best-epoch=") and item.name not in known):
            item.unlink()
