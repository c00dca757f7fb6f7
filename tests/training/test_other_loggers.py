"""Loggers other than the default ones: they get the name of the run, and the same metrics."""

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from lit_prune.training.cli import TrainingCLI
from tests.training.conftest import NARROW, TINY, Run

LOGS = Path("lightning_logs")
FIT = ["fit", *TINY, NARROW, "--name=x", "--trainer.max_epochs=2"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def logged(folder: Path) -> dict[str, float]:
    """The last value of each metric in `metrics.csv`, but the time."""
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(file)]
    last = {name: value for row in rows for name, value in row.items()}
    return {name: value for name, value in last.items() if name not in ("step", "time/epoch")}


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        (["--trainer.logger=CSVLogger"], "lightning_logs/x/version_0"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.save_dir=logs"], "logs/x/version_0"),
        (["--trainer.logger=CSVLogger", "--trainer.logger.name=own"], "lightning_logs/own/version_0"),
        (["--trainer.logger=true"], "lightning_logs/x/version_0"),
    ],
)
@pytest.mark.gate
def test_a_logger_gets_the_name_of_the_run(run: Run, options: list[str], folder: str) -> None:
    answer = run(*FIT, *options)
    assert answer.status == 0, answer.err
    assert names(Path()) == {Path(folder).parts[0]}
    assert names(Path(folder)) >= {"checkpoints", "config.yaml", "metrics.csv", "summary.txt"}
    assert f"--ckpt_path {folder}/checkpoints/best" in answer.out
    again = run("fit", f"--config={folder}/config.yaml")
    assert again.status == 0, again.err
    assert names(Path(folder).parent) == {"version_0", "version_1"}


def test_without_a_logger_checkpoints_are_in_the_folder_of_the_run(run: Run) -> None:
    assert run(*FIT, "--trainer.logger=false").status == 0
    assert names(Path()) == {"lightning_logs"}
    folder = LOGS / "x" / "version_0"
    assert names(folder) == {".lock", "checkpoints", "config.yaml", "summary.txt"}
    assert "last.ckpt" in names(folder / "checkpoints")
    argv = ["--trainer.logger=false", "--trainer.enable_checkpointing=false", "--name=y"]
    assert run(*FIT, *argv).status == 0
    assert names(LOGS) == {"x"}


@pytest.mark.parametrize(
    ("root", "hint"), [("memory://runs", "copy the run there afterwards"), ("file:///runs", "write it as `/runs`")]
)
def test_runs_are_written_to_local_folders_only(run: Run, root: str, hint: str) -> None:
    answer = run(*FIT, f"--trainer.default_root_dir={root}")
    assert answer.status == 2
    assert answer.complaint == (
        f"Expected `--trainer.default_root_dir` to be a local folder, but got `{root}`. HINT: {hint}."
    )
    assert names(Path()) == set()


def trained(*options: str) -> Any:
    return TrainingCLI([*FIT, *options]).trainer


@pytest.fixture
def default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """The metrics that the default loggers get, and those of the best epoch."""
    monkeypatch.chdir(tmp_path)
    best = max(trained().callback_metrics["val/acc"].item(), 0)
    metrics = logged(LOGS / "x" / "version_0")
    assert {"train/loss", "train/acc", "val/loss", "val/acc", "lr"} <= metrics.keys()
    assert metrics["val/acc"] == best
    return metrics


def assert_same(metrics: Mapping[str, float], default: Mapping[str, float]) -> None:
    assert {name: metrics[name] for name in default} == default
    assert metrics.keys() - default.keys() >= {"val/best_acc", "val/best_loss"}


@pytest.mark.filterwarnings("ignore")  # of wandb itself
def test_wandb_gets_the_same_name_and_metrics(default: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="needs `pip install 'lit-prune[trackers]'`")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run = trained("--trainer.logger=WandbLogger", "--trainer.logger.offline=true").logger.experiment
    try:
        assert run.name == "x"
        assert run.config["experiment"] == "x"
        assert run.config["batch_size"] == 8
        assert_same(dict(run.summary), default)
    finally:
        run.finish()


@pytest.mark.filterwarnings("ignore")  # of mlflow itself
def test_mlflow_gets_the_same_name_and_metrics(default: dict[str, float], monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow", reason="needs `pip install 'lit-prune[trackers]'`")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    logger = trained("--trainer.logger=MLFlowLogger").logger
    data = logger.experiment.get_run(logger.run_id).data
    assert data.tags["mlflow.runName"] == "x"
    assert data.params["experiment"] == "x"
    assert data.params["batch_size"] == "8"
    assert_same(data.metrics, default)
