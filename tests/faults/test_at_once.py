"""Runs that start in one folder at the same moment, each in its own process."""

import csv
import os
from pathlib import Path

import pytest
import torch
import yaml
from torch.multiprocessing.spawn import start_processes

from lit_prune.files.checkpoint import read_checkpoint
from tests import processes as processes  # one server imports, every process is a fork of it
from tests.faults.conftest import FIT
from tests.faults.test_full_disk import steps_of


def fit(rank, folder, number):
    from lit_prune.main import main

    torch.set_num_threads(1)
    os.chdir(folder)
    # start only when all processes are ready
    (folder / f"ready-{rank}").touch()
    while len(list(folder.glob("ready-*"))) < number:
        pass
    argv = [f"--model.hidden={8 + rank}", f"--seed_everything={rank}", f"--trainer.max_epochs={2 + rank}"]
    assert main([*FIT, *argv]) == 0


@pytest.mark.parametrize("number", [2, 4])
@pytest.mark.gate
def test_runs_that_start_at_once_have_their_own_folders_and_logs(tmp_path, number):
    start_processes(fit, (tmp_path, number), nprocs=number, start_method="forkserver")
    folders = sorted(tmp_path.glob("lightning_logs/Line/*"))
    assert [path.name for path in folders] == [f"version_{n}" for n in range(number)]
    seen = set()
    for folder in folders:
        config = yaml.safe_load((folder / "config.yaml").read_text())
        rank = config["seed_everything"]
        seen.add(rank)
        epochs = list(range(2 + rank))
        with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        assert [int(row["epoch"]) for row in rows if row["train/loss"]] == epochs
        assert [int(row["epoch"]) for row in rows if row["val/loss"]] == epochs
        assert len(list(folder.glob("events.out.tfevents.*"))) == 1
        assert steps_of(folder) == epochs
        assert [path.name for path in (folder / "checkpoints").iterdir()] == ["last.ckpt"]
        stored = read_checkpoint(folder / "checkpoints" / "last.ckpt")
        assert stored["epoch"] == epochs[-1]
        assert stored["state_dict"]["net.0.bias"].shape == (8 + rank,)
    assert seen == set(range(number))
    assert not list(Path(tmp_path).rglob("*.part"))
