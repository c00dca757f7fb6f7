"""Studies that run: uninterrupted, interrupted and resumed, in parallel, and with runs that fail."""

import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from lit_prune.cli.quiet import quiet
from lit_prune.main import main
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.results.results import read_results
from lit_prune.study.run import command
from lit_prune.study.run.worker import run as train
from tests.study.conftest import FREED, PRUNED, TINY, ThisProcess, callbacks, start
from tests.training.conftest import run as run  # the fixture

pytestmark = pytest.mark.gate  # each test runs a study, or uses the folder of one

EXPERIMENTS: list[dict[str, Any]] = [
    {"name": "base/dense"},
    {"name": "child/freed", "parent": "base/dense", "overrides": FREED},
    {"name": "child/scored", "parent": "base/dense", "train": False, "overrides": PRUNED},
]
EXAMPLES = Path(__file__).parents[3] / "examples"
TIMES = {"seconds_per_epoch", "time/epoch"}


def write(folder: Path, *experiments: dict[str, Any], **keys: Any) -> None:
    content = {"name": "tiny", "settings": TINY, "initial_weights": "random", "experiments": list(experiments), **keys}
    (folder / "tiny.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")


def rows(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file, without durations."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if k not in TIMES} for row in csv.DictReader(file)]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def assert_same_study(one: Path, other: Path) -> None:
    """Compare all numbers but durations, and all weights, bit for bit."""
    assert rows(one / "results.csv") == rows(other / "results.csv")
    for path in sorted(one.glob("*/*/seed=*")):
        assert_same_run(path, other / path.relative_to(one))


def assert_same_run(one: Path, other: Path) -> None:
    assert rows(one / "metrics.csv") == rows(other / "metrics.csv"), one
    mine, theirs = weights(one), weights(other)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine), one


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study that was never interrupted, with two runs at a time."""
    folder = tmp_path_factory.mktemp("whole")
    write(folder, *EXPERIMENTS)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["study", "tiny.yaml", "--out", "out", "--jobs", "2"]) == 0
    return folder / "out"


def test_a_study_writes_the_promised_files(whole):
    for name in ("plan.yaml", "results.csv", "report.md", "figures"):
        assert (whole / name).exists(), name
    for experiment in EXPERIMENTS:
        folder = whole / experiment["name"] / "seed=0"
        for name in ("config.yaml", "metrics.csv", "result.json", "log.txt", "checkpoints/last.ckpt"):
            assert (folder / name).is_file(), (experiment, name)
        assert list(folder.glob("events.out.tfevents.*"))
        assert not (folder / "error.txt").exists()
        result = json.loads((folder / "result.json").read_text())
        assert (result["experiment"], result["seed"]) == (experiment["name"], 0)
        assert 0 <= result["test"]["last"]["test/acc"] <= 1
        # the state that only a resumed training needs is removed, the weights stay
        assert "optimizer_states" not in torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert all(run.status == "complete" for run in read_results(whole).runs)


def test_children_start_from_the_weights_of_their_parent(whole):
    parent, scored = weights(whole / "base/dense/seed=0"), weights(whole / "child/scored/seed=0")
    prunable = [name for name, value in parent.items() if value.dim() in (2, 4)]
    zeros = sum(int((scored[name] == 0).sum()) for name in prunable)
    assert zeros == round(0.3 * sum(parent[name].numel() for name in prunable))
    for name, value in parent.items():
        kept = scored[name] != 0 if name in prunable else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(scored[name][kept], value[kept]), name


def test_sparsity_after_removal_stops_at_the_weights_that_never_received_a_gradient(whole):
    runs = read_results(whole)
    (freed,) = runs.of("child/freed")
    assert freed.measures["sparsity_start"] == pytest.approx(0.3, abs=1e-6)
    assert 0.15 < freed.measures["sparsity_end"] < 0.25
    assert freed.measures["sparsity_end"] == pytest.approx(freed.measures["untouched_pruned"], abs=1e-3)


def test_every_run_has_an_entry_for_the_hparams_tab(whole):
    for experiment in EXPERIMENTS:
        events = EventAccumulator(str(whole / experiment["name"] / "seed=0"))
        events.Reload()
        metadata = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
        found = HParamsPluginData.FromString(metadata).session_start_info.hparams
        assert found["experiment"].string_value == experiment["name"]
        assert found["parent"].string_value == experiment.get("parent", "none")
        result = json.loads((whole / experiment["name"] / "seed=0" / "result.json").read_text())
        tests = {"test/acc": "last", "test/acc_of_best": "best"}
        for tag, which in tests.items():
            # an experiment that does not train has one checkpoint
            wanted = result["test"].get(which, result["test"]["last"])["test/acc"]
            assert [event.value for event in events.Scalars(tag)] == [pytest.approx(wanted)]
        metadata = events.summary_metadata["_hparams_/experiment"].plugin_data.content
        described = HParamsPluginData.FromString(metadata).experiment
        named = {metric.name.tag for metric in described.metric_infos}
        assert named == {
            "test/acc",
            "test/acc_of_best",
            "val/best_acc",
            "val/acc",
            "train/acc",
            "val/loss",
            "sparsity/global",
        }
        assert named - {"train/acc"} <= set(events.Tags()["scalars"])
        first = [info.name for info in described.hparam_infos if info.differs]
        assert {"experiment", "parent", "seed"} <= set(first)
        assert "lr" not in first


def test_a_complete_study_runs_nothing_again(whole, run, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in whole.glob("*/*/seed=*/*")}
    monkeypatch.chdir(whole.parent)
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in whole.glob("*/*/seed=*/*")} == before
    assert len(before) > 15


def test_a_run_can_be_repeated_alone_from_its_configuration(whole, run):
    answer = run("fit", "--config", str(whole / "base/dense/seed=0/config.yaml"))
    assert answer.status == 0, answer.err
    ours = weights(Path("lightning_logs/tiny-base-dense-seed0/version_0"))
    theirs = weights(whole / "base/dense/seed=0")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def with_base(whole: Path, folder: Path) -> Path:
    """Return the folder of a study in which only the children have to run."""
    write(folder, *EXPERIMENTS)
    shutil.copytree(whole / "base", folder / "out" / "base")
    shutil.copy(whole / "plan.yaml", folder / "out")
    return folder / "out"


def runs_of(process: "subprocess.Popen[str]") -> list[int]:
    """Process ids of the runs that a study has started, after that of their server."""
    if process.poll() is not None:
        return []
    servers = children(process.pid)
    return [*servers, *(run for server in servers for run in children(server))]


def children(pid: int) -> list[int]:
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[-1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Any, seconds: float = 300) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def kill(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Kill a study at a random moment of the next seconds; no run may survive it."""
    time.sleep(random.uniform(0, seconds))  # noqa: S311 - a moment, not a secret
    children = runs_of(process)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(alive, children)), 60)


def assert_every_epoch_was_logged_once(out: Path) -> None:
    for path in out.glob("*/*/seed=*"):
        epochs = [row["epoch"] for row in rows(path / "metrics.csv") if row.get("train/loss")]
        assert epochs == sorted(set(epochs)), path


@pytest.mark.usefixtures("no_processes")
def test_a_study_that_is_killed_while_a_child_trains_ends_with_the_same_bits(whole, run, tmp_path):
    out = with_base(whole, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in out.glob("base/*/*/*")}
    process = start("study", "tiny.yaml", "--out", "out", "--jobs", "1", cwd=tmp_path)
    wait_for(lambda: (out / "child/freed/seed=0/metrics.csv").exists() or process.poll() is not None)
    kill(process, 0.5)
    assert process.returncode == -signal.SIGKILL
    assert not (out / "child/freed/seed=0/result.json").exists()
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 0, answer.err
    assert {path: path.stat().st_mtime_ns for path in out.glob("base/*/*/*")} == before
    assert_same_study(whole, out)
    assert_every_epoch_was_logged_once(out)


@pytest.mark.slow
def test_a_study_that_is_killed_at_three_random_moments_ends_with_the_same_bits(whole, tmp_path):
    write(tmp_path, *EXPERIMENTS)
    out = tmp_path / "out"
    argv = ("study", "tiny.yaml", "--out", "out", "--jobs", "1")

    def logs() -> int:
        return len(list(out.glob("*/*/*/metrics.csv")))

    for _ in range(3):
        process, before = start(*argv, cwd=tmp_path), logs()
        wait_for(lambda new=process: runs_of(new) or new.poll() is not None)
        if random.random() < 0.7:  # noqa: S311 - otherwise most kills would hit imports
            wait_for(lambda new=process, known=before: logs() > known or new.poll() is not None)
        kill(process, 4)
    process = start(*argv, cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert_same_study(whole, out)
    assert_every_epoch_was_logged_once(out)


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_stops_a_study_and_a_folder_is_for_one_study_at_a_time(run, tmp_path, number):
    write(tmp_path, {"name": "dense"})
    process = start("study", "tiny.yaml", "--out", "out", "--max_epochs", "5000", cwd=tmp_path)
    wait_for(lambda: list(tmp_path.glob("out/dense/*/checkpoints/last.ckpt")))
    children = runs_of(process)
    second = run("study", "tiny.yaml", "--out", "out", "--max_epochs", "5000")
    process.send_signal(number)
    printed, _ = process.communicate(timeout=120)
    assert second.status == 2
    assert second.complaint == "Another `lit-prune study` is running in `out`. Wait until it has finished, or stop it."
    assert process.returncode == 128 + number
    assert "Interrupted. Run the same command again to continue." in printed
    assert "Traceback" not in printed
    assert children
    assert not any(map(alive, children))
    stopped = torch.load(tmp_path / "out/dense/seed=0/checkpoints/last.ckpt", weights_only=True)
    assert "optimizer_states" in stopped


def test_a_worker_of_a_ray_cluster_gives_the_same_bits(whole, run, tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    out = with_base(whole, tmp_path)
    answer = run("study", "tiny.yaml", "--out", "out", "--ray", "local", "--jobs", "1", "--only", "child/scored")
    assert answer.status == 0, answer.err
    assert_same_run(whole / "child/scored/seed=0", out / "child/scored/seed=0")


@pytest.mark.slow
def test_two_workers_of_a_ray_cluster_give_the_same_bits(whole, tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    write(tmp_path, *EXPERIMENTS)
    process = start("study", "tiny.yaml", "--out", "out", "--ray", "local", "--jobs", "2", cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed
    assert_same_study(whole, tmp_path / "out")


@pytest.mark.slow
def test_runs_of_a_lost_ray_node_end_on_the_other_with_the_same_bits(tmp_path):
    pytest.importorskip("ray", reason="the extra `ray` is not installed")
    from ray.cluster_utils import Cluster

    long = {"trainer": {"max_epochs": 30}}
    names = ["one", "two"]  # a run for each node
    write(tmp_path, *({"name": name, "overrides": long} for name in names))
    undisturbed = start("study", "tiny.yaml", "--out", "whole", cwd=tmp_path)
    printed, _ = undisturbed.communicate()
    assert undisturbed.returncode == 0, printed
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    try:
        node, _ = (cluster.add_node(num_cpus=1) for _ in names)
        study = start("study", "tiny.yaml", "--out", "out", "--ray", cluster.address, cwd=tmp_path)
        folders = [tmp_path / "out" / name / "seed=0" for name in names]
        end = time.monotonic() + 200
        while not all((folder / "checkpoints/last.ckpt").is_file() for folder in folders):
            assert study.poll() is None
            assert time.monotonic() < end
            time.sleep(0.02)
        assert not any((folder / "result.json").is_file() for folder in folders)
        cluster.remove_node(node, allow_graceful=False)
        printed, _ = study.communicate()
    finally:
        cluster.shutdown()
    assert study.returncode == 0, printed
    logs = [(folder / "log.txt").read_text() for folder in folders]
    assert sorted(log.count("The machine of this run was lost.") for log in logs) == [0, 1]
    assert_same_study(tmp_path / "whole", tmp_path / "out")


@pytest.mark.usefixtures("no_processes")
def test_a_failing_run_does_not_stop_the_others(run, tmp_path):
    full = callbacks(("GlobalL1Pruning", {"amount": 0.9, "max_layer_sparsity": 0.1}))
    # a learning rate at which the loss becomes NaN
    away = {"model": {"optimizer": {"init_args": {"lr": 1e30}}}, "trainer": {"max_epochs": 2}}
    write(
        tmp_path,
        {"name": "wrong", "overrides": full},
        {"name": "child", "parent": "wrong"},
        {"name": "right", "train": False},
        {"name": "away", "overrides": away},
    )
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 1
    assert "lit-prune: Run `wrong`, seed 0, failed: Expected `max_layer_sparsity` " in answer.err
    assert "lit-prune: Run `child`, seed 0, was not started, because a run that it depends on failed." in answer.err
    assert "Traceback" not in answer.err
    statuses = {run.experiment: run.status for run in read_results("out").runs}
    assert statuses == {"wrong": "failed", "child": "missing", "right": "complete", "away": "diverged"}
    report = Path("out/report.md").read_text()
    assert "max_layer_sparsity" in report
    assert "diverged" in report


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("exit 3", "It exited with status 3. See `out/dense/seed=0/log.txt`."),
        ("kill -9 $$", "It was killed by signal 9, possibly for lack of memory. See `out/dense/seed=0/log.txt`."),
    ],
)
def test_a_process_that_ends_early_is_reported(run, tmp_path, monkeypatch, line, reason):
    write(tmp_path, {"name": "dense"})
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\necho said\n{line}\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 1
    assert f"lit-prune: Run `dense`, seed 0, failed: {reason}" in answer.err
    assert Path("out/dense/seed=0/log.txt").read_text() == "said\n"


@pytest.mark.slow
def test_a_run_that_is_killed_alone_is_reported_and_run_again(tmp_path):
    write(tmp_path, {"name": "dense"}, {"name": "scored", "train": False})
    process = start("study", "tiny.yaml", "--out", "out", "--jobs", "1", cwd=tmp_path)
    wait_for(lambda: runs_of(process)[1:])
    os.kill(runs_of(process)[1], signal.SIGKILL)  # as the system does without memory
    printed, _ = process.communicate()
    assert process.returncode == 1
    assert "Run `dense`, seed 0, failed: It was killed by signal 9, possibly for lack of memory." in printed
    assert (tmp_path / "out/scored/seed=0/result.json").is_file()
    process = start("study", "tiny.yaml", "--out", "out", cwd=tmp_path)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed


def test_a_study_of_a_custom_module_and_custom_data(run, monkeypatch):
    shutil.copy(EXAMPLES / "moons.py", ".")
    argv = ("study", str(EXAMPLES / "moons.yaml"), "--out", "moons", "--seeds", "5", "--max_epochs", "4")
    answer = run(*argv, "--only", "dense/first")  # in a process of its own
    assert answer.status == 0, answer.err
    monkeypatch.setattr(command, "Forks", ThisProcess)
    answer = run(*argv)
    assert answer.status == 0, answer.err
    results = read_results("moons")
    assert [run.status for run in results.runs] == ["complete"] * 5
    (gradual,) = results.of("pruned/gradually")
    assert gradual.measures["sparsity_end"] == pytest.approx(0.5, abs=0.01)
    (dense,) = results.of("dense/on")
    assert dense.measures["sparsity_end"] == 0
    assert dense.measures["final_val_acc"] > 0.6
    report = Path("moons/report.md").read_text()
    assert "Half of the weights can be pruned by magnitude at no cost" in report


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system that is too small for a checkpoint."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=30m", "tmpfs", str(folder)], check=False)
    if done.returncode != 0:
        pytest.skip("mounting is not allowed here")
    yield folder
    subprocess.run([str(shutil.which("umount")), str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_is_reported_in_one_sentence_and_nothing_is_lost(run, tmp_path, small_disk):
    write(tmp_path, {"name": "dense"}, {"name": "scored", "train": False})
    answer = run("study", "tiny.yaml", "--out", str(small_disk / "out"), "--max_epochs", "1", "--jobs", "1")
    assert answer.status == 1
    assert "Run `dense`, seed 0, failed: " in answer.err
    assert "no space left on device" in answer.err.lower()
    assert "Traceback" not in answer.err
    assert not list(small_disk.rglob("*.part"))
    assert (small_disk / "out/plan.yaml").is_file()
    # with more room, the same command continues
    subprocess.run([str(shutil.which("mount")), "-o", "remount,size=900m", str(small_disk)], check=True)
    answer = run("study", "tiny.yaml", "--out", str(small_disk / "out"), "--max_epochs", "1", "--jobs", "1")
    assert answer.status == 0, answer.err
    assert all(each.status == "complete" for each in read_results(small_disk / "out").runs)


@pytest.mark.parametrize("model", ["OtherNet", "Untested"])
def test_a_model_of_pytorch_lightning_is_trained_and_tested(tmp_path, model):
    settings = {
        "model": {"class_path": f"tests.training.other.{model}"},
        "data": {"class_path": "tests.training.other.OtherData"},
        "trainer": {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False},
    }
    write(tmp_path, {"name": "a"}, settings=settings)
    plan = load_plan(tmp_path / "tiny.yaml")
    with quiet():
        train(plan, plan.experiments[0], 0, tmp_path / "out")
    found = json.loads((tmp_path / "out/a/seed=0/result.json").read_text(encoding="utf-8"))
    assert found["epochs"] == 1
    assert {which: set(scores) for which, scores in found["test"].items()} == (
        {"last": {"val/loss", "val/worst", "val/acc"}} if model == "OtherNet" else {}
    )
