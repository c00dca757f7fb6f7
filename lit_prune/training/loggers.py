"""Loggers of one run that a later process can go on with: no row lost, no epoch twice."""

import csv
import errno
import io
import os
from collections.abc import Iterable, Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.files.atomic import append, replacing, sync

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
    @property
    def experiment(self) -> Any:
        # rank zero alone writes, and `super` gives the others an object that does nothing
        if self._experiment is None and rank_zero_only.rank == 0:  # type: ignore[attr-defined]
            from lit_prune.training.event_file import Summaries  # TensorBoard takes a while, `--help` should not

            self._experiment = Summaries(self.log_dir)
        return super().experiment

    @rank_zero_only
    def save(self) -> None:
        # Lightning's own also writes a file `hparams.yaml`, which would be empty: `config.yaml` has them
        self.experiment.flush()


class _Rows(ExperimentWriter):
    """Goes on with a file that is there, which Lightning's own deletes, and never leaves half a row.

    Attributes:
        count: Rows on disk. They are counted once: to read them at each checkpoint would slow a long run down.
    """

    def __init__(self, log_dir: str) -> None:
        self._path = Path(log_dir) / _METRICS
        self.count = 0
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        self.metrics_keys, rows = _rows(self._path)
        self.count = len(rows)

    def save(self) -> None:
        """Add what has been logged since the last time.

        Raises:
            OSError: If it cannot be written; the file is as before then. A file that is gone is not made anew, which
                would leave half a history in silence.
        """
        if self.count and not self._path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        if not self.metrics:
            return
        header = sorted({*self.metrics_keys, *chain(*self.metrics)})
        if len(header) == len(self.metrics_keys):
            append(self._path, _table(header, self.metrics).encode())
        else:  # the first row, or a new column
            known, rows = _rows(self._path)
            earlier = [dict(zip(known, row, strict=False)) for row in rows]
            _rewrite(self._path, header, [*earlier, *self.metrics])
        self.count += len(self.metrics)
        self.metrics, self.metrics_keys = [], header


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

    Raises:
        OSError: If they cannot be written, or are gone with the run's folder.
    """
    positions: dict[str, Any] = {}
    for logger in loggers:
        if not isinstance(logger, _TensorBoard | _CSV) or rank_zero_only.rank != 0:  # type: ignore[attr-defined]
            continue
        folder = Path(logger.log_dir)
        if logger._experiment is None and not folder.is_dir():
            continue  # nothing has been logged
        logger.save()
        if isinstance(logger, _TensorBoard):
            positions["events"] = {path.name: path.stat().st_size for path in folder.glob(_EVENTS)}
            for path in folder.glob(_EVENTS):
                sync(path)  # the checkpoint will be on disk, also if the machine goes off; so must be what it counts on
        elif (folder / _METRICS).is_file():
            positions["rows"] = logger.experiment.count
            sync(folder / _METRICS)
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
        _rewrite(path, header, [dict(zip(header, row, strict=False)) for row in kept])


def _rows(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, rows


def _rewrite(path: Path, header: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    names = dict(zip(header, header, strict=True))
    with replacing(path) as part:
        part.write_bytes(_table(header, [names, *rows]).encode())


def _table(header: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, header).writerows(rows)
    return text.getvalue()
