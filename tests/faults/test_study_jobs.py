"""Runs of a study that run out of memory beside others, and a study whose folder goes away."""

import json
from pathlib import Path

import pytest
import yaml

from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.study.results.results import read_results
from tests.study.conftest import start

ROOT = Path(__file__).parents[2]
FINE = ["fine/one", "fine/two"]


def write(folder, *experiments, **trainer):
    content = {
        "name": "jobs",
        "settings": {
            "model": {"class_path": "tests.faults.modules.Line"},
            "data": {"class_path": "tests.faults.modules.Points"},
            "trainer": {"accelerator": "cpu", "max_epochs": 3} | trainer,
        },
        "metrics": {"train_loss": "train/loss", "val_loss": "val/loss", "test_loss": "test/loss"},
        "experiments": list(experiments),
    }
    (folder / "jobs.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def study(folder, jobs="2"):
    """Run the study as a user would; its jobs import the modules of these tests from the repository."""
    process = start("study", str(folder / "jobs.yaml"), "--out", str(folder / "out"), "--jobs", jobs, cwd=ROOT)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


@pytest.mark.slow
def test_runs_without_memory_are_named_and_the_others_end_well(tmp_path):
    enough = tmp_path / "enough"
    model = "tests.faults.modules"
    hungry = {
        f"hungry/{of}": {"class_path": f"{model}.Hungry", "init_args": {"of": of, "until": str(enough)}}
        for of in ("torch", "python")
    }
    killed = {"killed/at-once": {"class_path": f"{model}.Killed", "init_args": {"until": str(enough)}}}
    write(
        tmp_path,
        {"name": FINE[0]},
        *({"name": name, "overrides": {"model": value}} for name, value in (hungry | killed).items()),
        {"name": FINE[1]},
    )
    status, printed = study(tmp_path)
    assert status == 1, printed
    failed = {line.split(": ")[2].split(" ")[0]: line for line in printed.splitlines() if ": failed: " in line}
    failed = {name: line for name, line in failed.items() if line.startswith("lit-prune: ")}
    assert set(failed) == {*hungry, *killed}, printed
    hint = "HINT: take a smaller `--data.batch_size` or run less beside it; the same command goes on."
    for name in hungry:
        assert "(seed 0): Expected enough memory for this run, but got none (" in failed[name]
        assert hint in failed[name]
    assert "It was killed by signal 9, perhaps for want of memory; see `" in failed["killed/at-once"]
    assert "Traceback" not in printed
    out = tmp_path / "out"
    statuses = {run.experiment: run.status for run in read_results(out).runs}
    assert {name for name, found in statuses.items() if found == "complete"} == set(FINE)
    # their first epoch is kept
    for name in failed:
        assert read_checkpoint(out / name / "seed=0/checkpoints/last.ckpt")["epoch"] == 0
    before = {name: (out / name / "seed=0/result.json").stat().st_mtime_ns for name in FINE}

    # with enough memory the same command runs what is left, from where it was
    enough.touch()
    status, printed = study(tmp_path)
    assert status == 0, printed
    assert {name: (out / name / "seed=0/result.json").stat().st_mtime_ns for name in FINE} == before
    for name in [*hungry, *killed]:
        assert f"{name} (seed 0): complete" in printed
        rows = (out / name / "seed=0/metrics.csv").read_text().splitlines()
        assert len(rows) == 1 + 2 * 3  # validation and training of each epoch, once
        assert json.loads((out / name / "seed=0/result.json").read_text())["epochs"] == 3
    for name in FINE:
        assert f"{name} (seed 0): complete" not in printed
    assert [run.status for run in read_results(out).runs] == ["complete"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("above", [0, 2], ids=["of a run", "of the study"])
def test_a_study_under_which_a_folder_is_removed(tmp_path, above):
    remove = {"class_path": "tests.faults.modules.RemoveFolder", "init_args": {"epoch": 1, "above": above}}
    write(tmp_path, {"name": "removes", "overrides": {"trainer": {"callbacks": [remove]}}}, {"name": "other"})
    status, printed = study(tmp_path, "1")
    assert status == 1, printed
    out = tmp_path / "out"
    assert "Traceback" not in printed
    if above:  # it ends, and makes no other folder, which would look like a study
        assert f"lit-prune: error: Expected `{out / 'plan.yaml'}` to stay while it is worked with" in printed
        assert not out.exists()
        return
    gone = f"Its folder `{out / 'removes/seed=0'}` was moved or removed while it ran."
    assert f"removes (seed 0): failed: {gone}" in printed
    assert "other (seed 0): complete" in printed
    assert {run.experiment: run.status for run in read_results(out).runs} == {"removes": "missing", "other": "complete"}
