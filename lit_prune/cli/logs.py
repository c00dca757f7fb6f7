"""Loggers of one run that a later process can go on with: no row lost, no epoch twice."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.files import replacing

__all__ = ["log_positions", "make_loggers", "rewind_logs"]

_METRICS = "metrics.csv"
_EVENTS = "events.out.tfevents.*"


class _EpochAxis:
    """Puts what a Trainer logs once an epoch at its epoch; Lightning would put it at the batch it had come to.

    Lightning's own way, a metric called `step`, also renames every checkpoint that has `{step}` in its file name.
    """

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # the Trainer adds "epoch" to what modules and callbacks `log`; what is logged at batches ends in "_step"
        if "epoch" in metrics and not any(name.endswith("_step") for name in metrics):
            step = int(metrics["epoch"])
        super().log_metrics(metrics, step)  # type: ignore[misc]


class _TensorBoard(_EpochAxis, TensorBoardLogger):
    pass


class _Rows(ExperimentWriter):
    """Goes on with a file that is there, which Lightning's own deletes, and never leaves half of it."""

    def _check_log_dir_exists(self) -> None:
        path = Path(self.metrics_file_path)
        if path.is_file():
            with path.open(newline="", encoding="utf-8") as file:
                self.metrics_keys = next(csv.reader(file), [])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        path = Path(self.metrics_file_path)
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, fieldnames=fieldnames)
            writer.writeheader()
            writer.writerows(rows)


class _CSV(_EpochAxis, CSVLogger):
    @property
    def experiment(self) -> Any:
        # rank zero alone writes, and `super` gives the others an object that does nothing
        if self._experiment is None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Rows(self.log_dir)
        return super().experiment


def make_loggers(folder: Path) -> list[TensorBoardLogger | CSVLogger]:
    """Make the TensorBoard and CSV loggers of one run, both in one folder.

    Args:
        folder: The run's folder. What is logged there already stays.

    Returns:
        The two loggers; the first decides where checkpoints and `config.yaml` go.
    """
    root, name, version = folder.parent.parent, folder.parent.name, folder.name
    return [
        # hp_metric = -1 would be the only metric of the HParams tab; the summary logs the real ones at the end
        _TensorBoard(root, name=name, version=version, default_hp_metric=False),
        # what an epoch logged is on disk when it ends, not after a hundred epochs
        _CSV(root, name=name, version=version, flush_logs_every_n_steps=1),
    ]


def log_positions(loggers: list[Any]) -> dict[str, Any]:
    """Say how far the logs of a run have come, all of it being on disk.

    Args:
        loggers: Of a Trainer; others than those of `make_loggers` have no position.

    Returns:
        Plain values for a checkpoint.
    """
    positions: dict[str, Any] = {}
    for logger in loggers:
        folder = Path(logger.log_dir) if isinstance(logger, _TensorBoard | _CSV) else None
        if folder is None or not folder.is_dir():
            continue
        if isinstance(logger, _TensorBoard):
            logger.experiment.flush()
            positions["events"] = {path.name: path.stat().st_size for path in folder.glob(_EVENTS)}
        else:
            positions["rows"] = len(_rows(folder / _METRICS)[1])
    return positions


def rewind_logs(folder: Path, positions: Mapping[str, Any]) -> None:
    """Forget what a run has logged since a checkpoint, from which it will go on.

    Args:
        folder: The run's folder.
        positions: What `log_positions` said when the checkpoint was written.

    Raises:
        OSError: If the logs cannot be rewritten.
    """
    known: Mapping[str, int] = positions.get("events", {})
    for path in folder.glob(_EVENTS):
        if path.name not in known:
            path.unlink()
        elif path.stat().st_size > known[path.name]:
            with path.open("rb+") as file:
                file.truncate(known[path.name])
    path = folder / _METRICS
    header, rows = _rows(path)
    kept = rows[: positions.get("rows", 0)]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        with replacing(path) as part, part.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *kept])


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, rows
