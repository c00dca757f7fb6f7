"""Resuming a run: its folder, its newest checkpoint, and what is in the folder that this checkpoint does not know.

A resumed run computes the same bits as one that was never interrupted, and its logs have the same rows. Besides
Lightning's own state, a checkpoint holds for that:

    key                     written by      used when the run resumes
    lit_prune.logs          RunSummary      by rewind_logs, to cut the logs to their length at the checkpoint
    lit_prune.pending       RunSummary      by RunSummary, to log the metrics that Lightning logs after the last hook of
                                            an epoch, when its checkpoint is already written
    lit_prune.best, final   RunSummary      by RunSummary: the best epoch so far, and the last metrics
    lit_prune.callbacks     RunSummary      by Run, which requires the callbacks that freeze and prune
    lit_prune.settings      RunSummary      by apply_stored_settings, as defaults of the options
    running_metrics         RunningMetrics  by RunningMetrics, to continue the means of an unfinished epoch
"""

import shutil
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from lit_prune.errors import InputError, expected
from lit_prune.files.checkpoint import KEY, read_checkpoint
from lit_prune.training.run_folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    ERROR,
    LOCK,
    LOG,
    SUMMARY,
    find_versions,
    log_folder,
)

# the value of `--resume` without a folder: the newest run of this name
NEWEST = "newest"


class Checkpoint(NamedTuple):
    """A checkpoint that was read from a file, and its path."""

    path: Path
    content: dict[str, Any]


def insert_run_config(argv: Sequence[str]) -> list[str]:
    """Insert the configuration of the resumed run into `fit --resume FOLDER`, before all other options.

    Raises:
        InputError: If the folder does not belong to a run.
    """
    argv = list(argv)
    given = [word.split("=", 1)[1] for word in argv if word.startswith("--resume=")]
    given += [after for word, after in pairwise(argv) if word == "--resume" and not after.startswith("-")]
    if not given or given[-1] == NEWEST or argv[0] != "fit":
        return argv
    folder = Path(given[-1])
    if not (folder / CONFIG).is_file():
        found = "which is not a folder" if not folder.is_dir() else f"which holds no {CONFIG}"
        hint = "give lightning_logs/NAME/version_N, or `--resume` alone for the newest run of this name"
        raise expected("`--resume` to name the folder of a run", f"`{folder}`, {found}", hint)
    return [argv[0], f"--config={folder / CONFIG}", *argv[1:]]


def find_run(config: Any, name: str, argv: Sequence[str]) -> Path | None:
    """Find the folder of the run that `--resume` names; None if there is no run of this name yet.

    Args:
        config: The parsed options of `fit`.
        name: Name of the run.
        argv: The command and its options.

    Raises:
        InputError: If other options contradict `--resume`.
    """
    if any(word.split("=")[0] == "--ckpt_path" for word in argv):
        raise expected("one of `--resume` and `--ckpt_path`", "both", "`--resume` finds the checkpoint itself")
    if config.trainer.logger is not None or config.trainer.fast_dev_run:
        found = "custom ones or none"
        hint = "leave out `--trainer.logger` and `--trainer.fast_dev_run`"
        raise expected("the default loggers together with `--resume`", found, hint)
    if config.resume != NEWEST:
        return Path(config.resume)
    runs = find_versions(log_folder(Path(config.trainer.default_root_dir or "."), name))
    return runs[max(runs)] if runs else None


def find_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Find the newest checkpoint in a run folder that training can continue from; None if there are no checkpoints.

    Damaged ones are reported on stderr and skipped.

    Raises:
        InputError: If none of the checkpoints can be used.
    """
    paths = sorted((folder / CHECKPOINTS).glob("*.ckpt"), key=lambda path: path.stat().st_mtime_ns, reverse=True)
    faults: list[str] = []
    for path in paths:
        try:
            content = read_checkpoint(path)
        except InputError as error:
            faults.append(str(error))
            continue
        if "optimizer_states" in content:
            for fault in faults:
                print(f"lit-prune: skipped: {fault} Resuming from `{path}`.", file=sys.stderr)
            return Checkpoint(path, content)
        faults.append(f"`{path}` holds no optimizer state.")
    if not paths:
        return None
    raise expected(
        f"a checkpoint in `{folder / CHECKPOINTS}` that training can continue from",
        "none: " + " ".join(faults).rstrip("."),
        "start from the beginning in another folder, without `--resume`",
    )


def is_finished(folder: Path, stored: Mapping[str, Any], max_epochs: int | None) -> bool:
    """Whether a run has finished, with the number of epochs that is now asked for."""
    return (folder / SUMMARY).is_file() and stored.get(KEY, {}).get("max_epochs") == max_epochs


def remove_stale_files(folder: Path, stored: Mapping[str, Any] | None) -> None:
    """Remove the files of a run that are newer than the checkpoint it resumes from; `rewind_logs` cuts its logs.

    Args:
        folder: Run folder.
        stored: Content of the checkpoint; None empties the folder, for a run that starts from the beginning.
    """
    if stored is None:
        for item in folder.iterdir():
            if item.name not in (LOCK, LOG):
                shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        return
    for name in (SUMMARY, ERROR):
        (folder / name).unlink(missing_ok=True)
    states = [state for state in stored.get("callbacks", {}).values() if isinstance(state, dict)]
    known = {Path(str(state["best_model_path"])).name for state in states if "best_model_path" in state}
    for item in (folder / CHECKPOINTS).iterdir():
        # an unfinished file, or a best epoch that lies after the checkpoint
        if item.suffix == ".part" or (item.name.startswith(BEST) and item.name not in known):
            item.unlink()
