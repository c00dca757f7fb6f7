"""The benchmark runs and writes its results."""

import json
import subprocess
import sys
from pathlib import Path

import benchmark
import pytest
from measurements import common, training

SCRIPT = Path(__file__).parents[1] / "scripts" / "benchmark.py"
RATIOS = {
    "training": {"epoch: plain loop / ours", "step: plain step / ours"},
    "inference": {"batch 1: torch / ours", "batch 8: torch / ours"},
    "overhead": {"data and Lightning / step"},
    "masks": {"masked / dense", "masked / dense, with clipping", "our masks / ModelPruning"},
    "threshold": {"torch / threshold", "torch / masks"},
    "freezing": {"30% frozen / none frozen", "scaled updates / none frozen"},
    "monitor": {"monitor on / off"},
    "rigl": {"sums / step", "change / step"},
}


@pytest.mark.gate
def test_all_measurements_are_printed_and_written(tmp_path, monkeypatch, capsys):
    for module in (common, training):
        monkeypatch.setattr(module, "BATCH_SIZE", 8)
    path = tmp_path / "result.json"
    assert benchmark.main(["--source", "synthetic", "--rounds", "2", "--steps", "1", "--json", str(path)]) == 0
    printed = capsys.readouterr().out
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content.keys() == {"machine", "settings", "measurements"}
    assert content["settings"] == {"source": "synthetic", "data_dir": "data", "rounds": 2, "steps": 1}
    found = {name: set(measurement["ratios"]) for name, measurement in content["measurements"].items()}
    assert found == RATIOS
    for measurement in content["measurements"].values():
        for kind in ("seconds_per_step", "ratios"):
            for name, values in measurement[kind].items():
                assert name in printed
                assert len(values["rounds"]) == 2
                assert values["low"] <= values["median"] <= values["high"]
        assert all(values["low"] > 0 for values in measurement["seconds_per_step"].values())
    seconds = content["measurements"]["training"]["seconds_per_step"]
    wanted = [a / b for a, b in zip(seconds["plain loop"]["rounds"], seconds["trainer"]["rounds"], strict=True)]
    assert content["measurements"]["training"]["ratios"]["epoch: plain loop / ours"]["rounds"] == wanted


@pytest.mark.gate
def test_the_script_refuses_numbers_that_measure_nothing():
    argv = [sys.executable, str(SCRIPT), "--rounds", "0"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--rounds and --steps must be at least 1" in done.stderr


def test_an_unknown_measurement_is_refused(capsys):
    with pytest.raises(SystemExit) as leave:
        benchmark.main(["--only", "speed"])
    assert leave.value.code == 2
    assert "argument --only: invalid choice: 'speed'" in capsys.readouterr().err
