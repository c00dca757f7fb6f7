"""Runs of a study that run out of memory next to others, and a study whose folder is removed."""

import json
import re
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
    """Run the study as a user does; its jobs import the modules of these tests from the repository."""
    process = start("study", str(folder / "jobs.yaml"), "--out", str(folder / "out"), "--jobs", jobs, cwd=ROOT)
    printed, _ = process.communicate(timeout=300)
    return process.returncode, printed


@pytest.mark.slow
def test_runs_without_memory_are_reported_and_the_others_finish(tmp_path):
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
    matches = [re.match(r"lit-prune: Run `(.*?)`, seed 0, failed: ", line) for line in printed.splitlines()]
    failed = {match[1]: match.string for match in matches if match}
    assert set(failed) == {*hungry, *killed}, printed
    for name in hungry:
        assert "memory" in failed[name]
        assert "smaller `--data.batch_size`" in failed[name]
    assert "It was killed by signal 9, possibly for lack of memory. See `" in failed["killed/at-once"]
    assert "Traceback" not in printed
    out = tmp_path / "out"
    statuses = {run.experiment: run.status for run in read_results(out).runs}
    assert {name for name, found in statuses.items() if found == "complete"} == set(FINE)
    # the first epoch of the others is kept
    for name in failed:
        assert read_checkpoint(out / name / "seed=0/checkpoints/last.ckpt")["epoch"] == 0
    before = {name: (out / name / "seed=0/result.json").stat().st_mtime_ns for name in FINE}

    # with enough memory the same command resumes the other runs
    enough.touch()
    status, printed = study(tmp_path)
    assert status == 0, printed
    assert {name: (out / name / "seed=0/result.json").stat().st_mtime_ns for name in FINE} == before
    for name in [*hungry, *killed]:
        assert f"Run `{name}`, seed 0, is complete." in printed
        rows = (out / name / "seed=0/metrics.csv").read_text().splitlines()
        assert len(rows) == 1 + 2 * 3  # validation and training of each epoch, once
        assert json.loads((out / name / "seed=0/result.json").read_text())["epochs"] == 3
    for name in FINE:
        assert f"Run `{name}`, seed 0, is complete." not in printed
    assert [run.status for run in read_results(out).runs] == ["complete"] * 5


@pytest.mark.slow
@pytest.mark.parametrize("above", [0, 2], ids=["of a run", "of the study"])
def test_a_study_whose_folder_is_removed(tmp_path, above):
    remove = {"class_path": "tests.faults.modules.RemoveFolder", "init_args": {"epoch": 1, "above": above}}
    write(tmp_path, {"name": "removes", "overrides": {"trainer": {"callbacks": [remove]}}}, {"name": "other"})
    status, printed = study(tmp_path, "1")
    assert status == 1, printed
    out = tmp_path / "out"
    assert "Traceback" not in printed
    if above:  # it stops, without making another folder, which would look like a study
        assert re.search(rf"lit-prune: error: .*`{re.escape(str(out / 'plan.yaml'))}`", printed)
        assert not out.exists()
        return
    gone = f"Its folder `{out / 'removes/seed=0'}` was moved or removed during the run."
    assert f"Run `removes`, seed 0, failed: {gone}" in printed
    assert "Run `other`, seed 0, is complete." in printed
    assert {run.experiment: run.status for run in read_results(out).runs} == {"removes": "missing", "other": "complete"}
