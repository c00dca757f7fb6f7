"""Resume a run: find its folder and its newest checkpoint, and remove files that are newer than the checkpoint.

A resumed run computes the same bits as a run that was never interrupted, and its logs have the same rows. Therefore a
checkpoint holds, in addition to what Lightning stores:

    key                     written by      used when the run resumes
    lit_prune.logs          RunSummary      by truncate_logs, to cut the logs to their length at the checkpoint, and by
                                            RunSummary, to continue the unwritten row of metrics.csv
    lit_prune.pending       RunSummary      by RunSummary, to log the last metrics of an epoch: Lightning logs them only
                                            after the checkpoint of the epoch is written
    lit_prune.best, final   RunSummary      by RunSummary: the best epoch and the latest metrics
    lit_prune.callbacks     RunSummary      by Run, to check that no callback that froze or pruned is missing
    lit_prune.max_epochs,   RunSummary      by is_finished: with another limit, a finished run resumes
     max_steps, max_time
    lit_prune.settings      RunSummary      by select_stored_settings, as defaults of the options
    running_metrics         RunningMetrics  by RunningMetrics, to continue the means of an unfinished epoch
"""

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
    EVENTS,
    METRICS,
    PREDICTIONS,
    SUMMARY,
    find_versions,
    log_folder,
)

# the value of `--resume` without a folder: resume the newest run with the name in `--name`
NEWEST = "newest"


class Checkpoint(NamedTuple):
    """The path and the content of a checkpoint."""

    path: Path
    content: dict[str, Any]


def insert_run_config(argv: Sequence[str]) -> list[str]:
    """Add `--config FOLDER/config.yaml` to `fit --resume FOLDER`, before all other options, which override it.

    Raises:
        InputError: If the folder holds no `config.yaml`.
    """
    argv = list(argv)
    given = [word.split("=", 1)[1] for word in argv if word.startswith("--resume=")]
    given += [after for word, after in pairwise(argv) if word == "--resume" and not after.startswith("-")]
    if not given or given[-1] == NEWEST or argv[0] != "fit":
        return argv
    _check_run_folder(given[-1])
    return [argv[0], f"--config={Path(given[-1]) / CONFIG}", *argv[1:]]


def _check_run_folder(given: str) -> None:
    if not given or not (Path(given) / CONFIG).is_file():
        found = f"which holds no {CONFIG}" if given and Path(given).is_dir() else "which is not a folder"
        hint = "pass lightning_logs/NAME/version_N, or only `--resume` for the newest run with the name in `--name`"
        raise expected("`--resume` to name the folder of a run", f"`{given}`, {found}", hint)


def find_run(config: Any, name: str, argv: Sequence[str]) -> Path | None:
    """Return the folder of the run that `--resume` chooses, or None if there is no run to resume.

    Args:
        config: The parsed options of `fit`.
        name: Name of the run.
        argv: The command and its options.

    Raises:
        InputError: If other options contradict `--resume`.
    """
    if any(word.split("=")[0] == "--ckpt_path" for word in argv):
        raise expected("one of `--resume` and `--ckpt_path`", "both", "`--resume` finds the checkpoint itself")
    if config.trainer.logger not in (None, True) or config.trainer.fast_dev_run:
        found = "other loggers or none"
        hint = "leave out `--trainer.logger` and `--trainer.fast_dev_run`"
        raise expected("the default loggers together with `--resume`", found, hint)
    if config.resume != NEWEST:
        _check_run_folder(config.resume)  # not checked yet if a configuration or the environment set it
        return Path(config.resume)
    runs = find_versions(log_folder(Path(config.trainer.default_root_dir or "."), name))
    return runs[max(runs)] if runs else None


def find_newest_checkpoint(folder: Path) -> Checkpoint | None:
    """Find, in a run folder, the newest checkpoint from which training can resume; None if there are no checkpoints.

    Damaged checkpoints are reported on stderr and skipped.

    Raises:
        InputError: If there are checkpoints, but training can resume from none of them.
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
                print(f"lit-prune: skipped a checkpoint: {fault} Resuming from `{path}`.", file=sys.stderr)
            return Checkpoint(path, content)
        faults.append(f"`{path}` holds no optimizer state.")
    if not paths:
        return None
    raise expected(
        f"a checkpoint in `{folder / CHECKPOINTS}` from which training can resume",
        "none: " + " ".join(faults).rstrip("."),
        "omit `--resume` to start a new run in another folder",
    )


def training_limits(trainer: Any) -> dict[str, int | str | None]:
    """Return the options of the Trainer that end a training, as values that a checkpoint can hold."""
    limits = {name: getattr(trainer, name) for name in ("max_epochs", "max_steps", "max_time")}
    return {name: limit if isinstance(limit, int | None) else str(limit) for name, limit in limits.items()}


def is_finished(folder: Path, stored: Mapping[str, Any], limits: Mapping[str, Any]) -> bool:
    """Whether a run has finished training, and its limits have not changed since then."""
    known = stored.get(KEY, {})
    return (folder / SUMMARY).is_file() and all(known.get(name, limit) == limit for name, limit in limits.items())


def remove_stale_files(folder: Path, stored: Mapping[str, Any] | None) -> None:
    """Remove the files that a run wrote after the checkpoint from which it resumes, except the logs.

    `truncate_logs` truncates the logs. Files that no run writes are kept: the user may have put them into the folder.

    Args:
        folder: Run folder.
        stored: Content of the checkpoint. None if the run does not resume from a checkpoint in this folder: then all
            files that a run writes are removed, including the logs, but not the lock, `log.txt` and `result.json`.
    """
    if stored is None:
        names = (CONFIG, METRICS, PREDICTIONS, SUMMARY, ERROR, f"{EVENTS}*", "*.part")
        for pattern in (*names, f"{CHECKPOINTS}/*.ckpt", f"{CHECKPOINTS}/*.part"):
            for item in filter(Path.is_file, folder.glob(pattern)):
                item.unlink()
        return
    for name in (SUMMARY, ERROR):
        (folder / name).unlink(missing_ok=True)
    states = [state for state in stored.get("callbacks", {}).values() if isinstance(state, dict)]
    known = {Path(str(state["best_model_path"])).name for state in states if "best_model_path" in state}
    for item in (folder / CHECKPOINTS).iterdir():
        # remove incomplete files, and best checkpoints that are newer than the checkpoint to resume from
        if item.suffix == ".part" or (item.name.startswith(BEST) and item.name not in known):
            item.unlink()
