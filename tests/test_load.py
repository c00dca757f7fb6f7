"""The load test runs, and notices lost runs and growth."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lit_prune.training.loggers import make_loggers

SCRIPT = Path(__file__).parents[1] / "scripts" / "load_test.py"
SPEC = importlib.util.spec_from_file_location("load_test", SCRIPT)
assert SPEC is not None
assert SPEC.loader is not None
load_test = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(load_test)


def run(*argv):
    return subprocess.run([sys.executable, SCRIPT, *argv], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_study_of_a_few_runs_loses_nothing():
    done = run("--runs", "4", "--jobs", "2", "--epochs", "0")
    assert done.returncode == 0, done.stdout + done.stderr
    said = r"study: 4 of 4 runs have a result, and have logged each of 3 epochs once, \d+ s with 2 jobs\n"
    assert re.fullmatch(said, done.stdout)


@pytest.mark.slow
def test_a_run_of_many_epochs_is_measured():
    done = run("--runs", "0", "--epochs", "100")
    lines = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert list(lines) == ["memory", "epoch", "checkpoint", "files"], done.stdout + done.stderr
    # so short a run tells little about slope and times, but a leak of the gradients of each epoch would show
    slope = float(lines["memory"].split("at the end, ")[1].split()[0])
    assert slope < 64
    assert "EXCEEDED" not in lines["files"]
    assert done.returncode == (1 if "EXCEEDED" in done.stdout else 0)
    rows, scalars, images = (int(number) for number in re.findall(r"(\d+) (?:bytes|of)", lines["files"])[:3])
    assert rows > 50
    assert scalars > 200
    assert images > 1000


@pytest.mark.slow
def test_the_default_load_keeps_all_bounds():
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    assert "study: 60 of 60 runs have a result" in done.stdout


def logged(folder, *epochs):
    """Write the logs and the result of a run of a study."""
    loggers = make_loggers(folder)
    for epoch in epochs:
        values = {"train_loss": 1.0, "valid_loss": 2.0, "sparsity/global": 0.0, "epoch": epoch}
        for logger in loggers:
            logger.log_metrics(values, epoch)
            logger.save()
    (folder / "result.json").write_text(json.dumps({"epochs": 3}))
    return folder


@pytest.mark.parametrize(("epochs", "fault"), [((0, 1, 2), ""), ((0, 2), "[0, 2]"), ((0, 1, 1, 2), "[0, 1, 1, 2]")])
def test_a_lost_or_repeated_row_is_noticed(tmp_path, epochs, fault):
    found = list(load_test.losses(logged(tmp_path / "run" / "seed=0", *epochs)))
    names = ("train_loss", "valid_loss", "sparsity/global")
    places = ("metrics.csv", "the events")
    assert found == ([f"{name} in {place} at epochs {fault}" for name in names for place in places] if fault else [])


def test_a_missing_result_is_noticed(tmp_path):
    folder = logged(tmp_path / "run" / "seed=0", 0, 1, 2)
    (folder / "result.json").unlink()
    assert list(load_test.losses(folder)) == ["no result"]


def test_growth_is_noticed():
    assert load_test.slope_of([(epoch, 500 + 3 * epoch) for epoch in range(0, 100, 10)]) == pytest.approx(3)
    line, holds = load_test.grown("epoch", [0.01] * 90 + [0.016] * 10)
    assert (line, holds) == ("epoch: 10.0 ms of CPU early, 16.0 ms at the end, ratio 1.60 (bound 1.5)", False)
    # a slow start and a single slow epoch do not count as growth
    assert load_test.grown("epoch", [5.0] * 10 + [0.01] * 85 + [3.0] + [0.011] * 4)[1]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--runs", "5"], "--runs must be a multiple of 4"),
        (["--jobs", "0"], "--runs must be a multiple of 4"),
        (["--epochs", "9"], "--epochs must be at least 100"),
    ],
)
def test_options_that_cannot_be_measured_are_refused(argv, complaint, capsys):
    with pytest.raises(SystemExit) as leave:
        load_test.main(argv)
    assert leave.value.code == 2
    assert complaint in capsys.readouterr().err
