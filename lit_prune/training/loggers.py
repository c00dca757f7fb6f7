"""Loggers whose files a resumed run continues: no row is lost, and no epoch is logged twice."""

import csv
import errno
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from lit_prune.files.atomic import append, replacing, sync
from lit_prune.training.custom_classes import split_options
from lit_prune.training.packages import LIGHTNING, derive
from lit_prune.training.run_folder import EVENTS, LOGS, METRICS, is_rank_zero

# metric that `RunSummary` logs with the last metrics of an epoch
EPOCH_TIME = "time/epoch"
# names in TensorBoard, which sorts charts by name: `lr` and `time/epoch` would come before `train` and `val`
_TAGS = {"lr": "train/lr", EPOCH_TIME: "train/time"}


class _EpochAxis:
    """Logs the metrics of an epoch with the epoch as their step, instead of the number of optimizer steps.

    Lightning's documentation suggests logging a metric called `step` for this, but such a metric would also replace
    `{step}` in the file names of checkpoints.

    `derive` adds a second base class, a logger of a Lightning package.
    """

    log_dir: str
    _experiment: Any

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        # use the epoch as the step, except for metrics of a single batch, whose names end in "_step"
        if "epoch" in metrics and not any(name.endswith("_step") for name in metrics):
            step = int(metrics["epoch"])
        super().log_metrics(self._rename(metrics), step)  # type: ignore[misc]

    def _rename(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        return metrics


class _TensorBoard(_EpochAxis):
    def _rename(self, metrics: Mapping[str, Any]) -> Mapping[str, Any]:
        return {_TAGS.get(name, name): value for name, value in metrics.items() if name != "epoch"}

    @property
    def experiment(self) -> Any:
        # on ranks other than 0, the inherited property returns an experiment that does nothing
        if self._experiment is None and is_rank_zero():
            from lit_prune.training.event_file import Summaries  # imported late, because TensorBoard is slow to import

            self._experiment = Summaries(self.log_dir)
        return super().experiment  # type: ignore[misc]

    @rank_zero_only
    def save(self) -> None:
        # Lightning would also write an empty `hparams.yaml`; this project writes the hyper-parameters to `config.yaml`
        self.experiment.flush()


class _Rows(ExperimentWriter):
    """Appends complete rows to `metrics.csv`; Lightning would delete an existing file.

    Attributes:
        merges: Whether metrics that are logged for the same epoch, first of validation and then of training, become one
            row. If so, the last row stays in memory, in `metrics`, until it has `EPOCH_TIME` or the next row is logged.
        count: Number of rows on disk, stored here because counting rows at each checkpoint would slow down long runs.
    """

    def __init__(self, log_dir: str) -> None:
        self._path = Path(log_dir) / METRICS
        self.merges = False
        self.count = 0
        super().__init__(log_dir)

    def _check_log_dir_exists(self) -> None:
        self.metrics_keys, rows = _read_rows(self._path)
        self.count = len(rows)

    def log_metrics(self, metrics_dict: dict[str, Any], step: int | None = None) -> None:
        """Add a row, or merge it into the one before."""
        super().log_metrics(metrics_dict, step)
        if self.merges and len(self.metrics) > 1:
            *_, before, row = self.metrics
            shared = {"epoch", "step"}
            if before.keys() & row.keys() == shared and all(before[name] == row[name] for name in shared):
                self.metrics[-2:] = [before | row]

    def save(self, whole: bool = False) -> None:
        """Append the rows logged since the last call; with `whole`, also a row that may still receive metrics.

        Raises:
            OSError: If the rows cannot be written (the file then stays unchanged), or if the file was removed since the
                last call (a new file would silently lack the earlier rows).
        """
        if self.count and not self._path.is_file():
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self._path))
        rows = self.metrics
        if self.merges and not whole and rows and rows[-1].get("epoch") == rows[-1]["step"]:
            rows = rows if EPOCH_TIME in rows[-1] else rows[:-1]
        if not rows:
            return
        header = sorted({*self.metrics_keys, *chain(*rows)})
        if len(header) == len(self.metrics_keys):
            append(self._path, _format_rows(header, rows).encode())
        else:  # the file does not exist yet, or lacks a new column
            known, old = _read_rows(self._path)
            earlier = [dict(zip(known, row, strict=False)) for row in old]
            _rewrite(self._path, header, [*earlier, *rows])
        self.count += len(rows)
        self.metrics, self.metrics_keys = self.metrics[len(rows) :], header


class _CSV(_EpochAxis):
    save: Callable[[], None]

    @property
    def experiment(self) -> Any:
        if self._experiment is None and is_rank_zero():
            Path(self.log_dir).mkdir(parents=True, exist_ok=True)
            self._experiment = _Rows(self.log_dir)
        return super().experiment  # type: ignore[misc]

    def finalize(self, status: str) -> None:
        if isinstance(self._experiment, _Rows):
            self._experiment.save(whole=True)
        super().finalize(status)  # type: ignore[misc]


def is_own(logger: Any) -> bool:
    """Return whether a logger was made by `make_loggers`."""
    return isinstance(logger, _TensorBoard | _CSV)


def make_loggers(folder: Path, package: str = LIGHTNING) -> list[Any]:
    """Return a TensorBoard and a CSV logger that continue the logs in a run folder."""
    # checkpoints store this path; with ".." in the middle, they would be refused as unsafe
    folder = Path(os.path.normpath(folder))
    root, name, version = folder.parent.parent, folder.parent.name, folder.name
    tensorboard = derive(_TensorBoard, package, "loggers.TensorBoardLogger")
    csv = derive(_CSV, package, "loggers.CSVLogger")
    return [
        # `RunSummary` logs the metrics of the HParams tab; Lightning would add `hp_metric` = -1
        tensorboard(root, name=name, version=version, default_hp_metric=False),
        # write each row at once, also when metrics are logged without the Trainer, which calls `save` after each row
        csv(root, name=name, version=version, flush_logs_every_n_steps=1),
    ]


def name_loggers(options: Any, name: str) -> None:
    """Set the name of a run in the options of the loggers that the user chose, unless they contain a name."""
    for logger in options if isinstance(options, list) else [options]:
        arguments = getattr(logger, "init_args", {})
        key = "run_name" if "run_name" in arguments else "name"  # MLflow calls it `run_name`
        if arguments.get(key, "") in (None, LOGS):  # Lightning's default names
            arguments[key] = name


def add_log_folder(argv: Sequence[str]) -> list[str]:
    """Add `--trainer.logger.save_dir`, which CSVLogger and TensorBoardLogger need, if the user left it out."""
    options = dict(split_options(argv))
    kind = options.get("--trainer.logger", "").rpartition(".")[-1]
    if kind not in ("CSVLogger", "TensorBoardLogger") or "--trainer.logger.save_dir" in options:
        return list(argv)
    folder = Path(options.get("--trainer.default_root_dir", ".")) / LOGS
    return [*argv, f"--trainer.logger.save_dir={folder}"]


def merge_next_rows(loggers: list[Any], unwritten: Mapping[str, Any] | None) -> None:
    """From now on, merge the metrics of each epoch into one row of `metrics.csv`; restore an unwritten row, if any."""
    for logger in loggers:
        if isinstance(logger, _CSV) and is_rank_zero():
            logger.experiment.merges = True
            logger.experiment.metrics += [dict(unwritten)] if unwritten else []


def sync_logs(loggers: list[Any]) -> dict[str, Any]:
    """Write all logs to disk, and return their sizes, which are stored in a checkpoint.

    Args:
        loggers: Loggers of a Trainer; only those made by `make_loggers` are used.

    Returns:
        A dictionary: under "rows", the number of rows of `metrics.csv`; under "unwritten", a row that is not in the
        file yet; under "events", the size in bytes of each TensorBoard event file, by file name. Empty entries are left
        out.

    Raises:
        OSError: If the logs cannot be written, or the run folder was removed.
    """
    positions: dict[str, Any] = {}
    for logger in loggers:
        if not is_own(logger) or not is_rank_zero():
            continue
        folder = Path(logger.log_dir)
        if logger._experiment is None and not folder.is_dir():
            continue  # nothing has been logged
        logger.save()
        if isinstance(logger, _TensorBoard):
            positions["events"] = {path.name: path.stat().st_size for path in folder.glob(f"{EVENTS}*")}
            for path in folder.glob(f"{EVENTS}*"):
                # even after a power failure, the logs must not be shorter than the sizes stored in the checkpoint
                sync(path)
            continue
        if logger.experiment.metrics:
            positions["unwritten"] = logger.experiment.metrics[-1]
        if (folder / METRICS).is_file():
            positions["rows"] = logger.experiment.count
            sync(folder / METRICS)
    return positions


def truncate_logs(folder: Path, positions: Mapping[str, Any]) -> None:
    """Truncate the logs in a run folder to the sizes stored in a checkpoint.

    Args:
        folder: Run folder.
        positions: Sizes that `sync_logs` returned when the checkpoint was written. Event files not listed are removed.

    Raises:
        OSError: If the logs cannot be rewritten.
    """
    known: Mapping[str, int] = positions.get("events", {})
    for path in folder.glob(f"{EVENTS}*"):
        if path.name not in known:
            path.unlink()
        elif path.stat().st_size > known[path.name]:
            with path.open("rb+") as file:
                file.truncate(known[path.name])
    path = folder / METRICS
    header, rows = _read_rows(path)
    kept = rows[: positions.get("rows", 0)]
    if not kept:
        path.unlink(missing_ok=True)
    elif len(kept) < len(rows):
        _rewrite(path, header, [dict(zip(header, row, strict=False)) for row in kept])


def _read_rows(path: Path) -> tuple[list[str], list[list[str]]]:
    if not path.is_file():
        return [], []
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, rows


def _rewrite(path: Path, header: list[str], rows: Iterable[Mapping[str, Any]]) -> None:
    names = dict(zip(header, header, strict=True))
    with replacing(path) as part:
        part.write_bytes(_format_rows(header, [names, *rows]).encode())


def _format_rows(header: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    text = io.StringIO(newline="")
    csv.DictWriter(text, header).writerows(rows)
    return text.getvalue()
