"""Run a large study and a long training; check that no result is lost, and that memory, times and files stay bounded.

    python scripts/load_test.py --runs 60 --jobs 4 --epochs 1000

Every run of the study must finish and log each epoch once. In the long training, memory and the times of an epoch and
a checkpoint may grow only a little, and an epoch may add at most 19 KiB to the log files. The exit status is 1 if a
result is missing or a bound is exceeded.
"""

import argparse
import csv
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lightning.pytorch import Callback, LightningModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event

ROOT = Path(__file__).resolve().parents[1]
MODEL, DATA = "moons.MoonsClassifier", "moons.MoonsData"
STUDY_EPOCHS = 3
EXPERIMENTS = 4
# largest growth of memory in KiB per epoch: after 1000 epochs, a run may use 4 MiB more than at the start
SLOPE_BOUND = 4.0
# largest ratio of the median time in the last tenth of the epochs to the median time in the second tenth
RATIO_BOUND = 1.5
# largest number of bytes per epoch of metrics.csv, TensorBoard's scalars and its images, for a network of three layers
ROWS_BOUND, SCALARS_BOUND, IMAGES_BOUND = 1 << 10, 2 << 10, 16 << 10
RECORD_BYTES = 16  # length and checksums of a record in an event file


class Sampler(Callback):
    """Records the memory of a training at each epoch, and the CPU time of epochs and checkpoints.

    CPU time of the training thread is measured, so that other programs on the machine affect it little.

    Args:
        path: Path of the JSON file to write at the end.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self.samples: list[dict[str, float]] = []
        self.checkpoints: list[float] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record the memory and the start time of the epoch; every ten epochs, measure how long a checkpoint takes."""
        if trainer.current_epoch % 10 == 0:
            gc.collect()  # so that uncollected garbage does not count as growth
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        if trainer.current_epoch % 10 == 1:
            began = time.thread_time()
            trainer.save_checkpoint(Path(str(trainer.log_dir)) / "timed.ckpt")
            self.checkpoints.append(time.thread_time() - began)
        kib = pages * os.sysconf("SC_PAGE_SIZE") / 1024
        self.samples.append({"epoch": trainer.current_epoch, "kib": kib, "began": time.thread_time()})

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Record how much CPU time the epoch took."""
        self.samples[-1]["seconds"] = time.thread_time() - self.samples[-1]["began"]

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write all records to the JSON file."""
        content = {"samples": self.samples, "checkpoints": self.checkpoints}
        Path(self.path).write_text(json.dumps(content), encoding="utf-8")


def long_run(folder: Path, epochs: int) -> Iterator[tuple[str, bool]]:
    """Train for many epochs with `SparsityMonitor` and pruning, and check the measurements.

    Yields:
        A line for each measurement, and whether the measurement is within its bound.
    """
    path = folder / "samples.json"
    callbacks: list[dict[str, Any]] = [
        {"class_path": "SparsityMonitor"},
        {"class_path": "GlobalL1Pruning", "init_args": {"amount": 0.5, "end_epoch": epochs // 2}},
        {"class_path": "load_test.Sampler", "init_args": {"path": str(path)}},
    ]
    config = {
        "model": {"class_path": MODEL},
        "data": {"class_path": DATA, "init_args": {"points": 64}},
        "trainer": {
            "accelerator": "cpu",
            "max_epochs": epochs,
            "default_root_dir": str(folder),
            "callbacks": callbacks,
        },
    }
    done = lit_prune(folder, "fit", config, "--trainer.enable_progress_bar=false", "--threads=1")
    if done.returncode:
        yield f"long run: failed\n{done.stdout}{done.stderr}", False
        return
    content = json.loads(path.read_text(encoding="utf-8"))
    samples = content["samples"]
    kept = [sample for sample in samples[len(samples) // 5 :] if sample["epoch"] % 10 == 0]
    slope = slope_of([(sample["epoch"], sample["kib"]) for sample in kept])
    text = f"{epochs} epochs, {kept[-1]['kib'] / 1024:.0f} MiB at the end, {slope:+.2f} KiB per epoch"
    yield f"memory: {text} over the last 80% (bound {SLOPE_BOUND:g})", slope <= SLOPE_BOUND
    yield grown("epoch", [sample["seconds"] for sample in samples])
    yield grown("checkpoint", content["checkpoints"])
    (events,) = (folder / "lightning_logs").rglob("events.out.tfevents.*")
    scalars, images = (size / epochs for size in bytes_of(events))
    rows = (events.parent / "metrics.csv").stat().st_size / epochs
    text = f"per epoch, {rows:.0f} bytes in metrics.csv, {scalars:.0f} in TensorBoard scalars, {images:.0f} in images"
    bounds = f"bounds {ROWS_BOUND}, {SCALARS_BOUND}, {IMAGES_BOUND}"
    yield f"files: {text} ({bounds})", rows <= ROWS_BOUND and scalars <= SCALARS_BOUND and images <= IMAGES_BOUND


def slope_of(points: Sequence[tuple[float, float]]) -> float:
    """Return the slope of the least-squares line through points (x, y)."""
    x, y = zip(*points, strict=True)
    return float(np.polyfit(x, y, 1)[0])


def bytes_of(events: Path) -> tuple[int, int]:
    """Return the number of bytes of all events without an image, and of the events with an image."""
    images = sum(
        len(raw) + RECORD_BYTES
        for raw in RawEventFileLoader(str(events)).Load()
        if any(value.HasField("image") for value in Event.FromString(raw).summary.value)
    )
    return events.stat().st_size - images, images


def grown(what: str, seconds: list[float]) -> tuple[str, bool]:
    """Compare the median of the last tenth of the times with the median of the second tenth.

    Returns:
        A line with the result, and whether the ratio is within its bound.
    """
    tenth = max(1, len(seconds) // 10)
    early, late = (statistics.median(part) for part in (seconds[tenth : 2 * tenth], seconds[-tenth:]))
    text = f"{1000 * early:.1f} ms of CPU early, {1000 * late:.1f} ms at the end, ratio {late / early:.2f}"
    return f"{what}: {text} (bound {RATIO_BOUND:g})", late / early <= RATIO_BOUND


def many_runs(folder: Path, runs: int, jobs: int) -> Iterator[tuple[str, bool]]:
    """Run a study of many small runs; yield a line that lists all missing results, and whether there are none."""

    def pruned(**arguments: float) -> dict[str, Any]:
        return {"trainer": {"callbacks+": [{"class_path": "GlobalL1Pruning", "init_args": arguments}]}}

    plan: dict[str, Any] = {
        "name": "load",
        "seeds": list(range(runs // EXPERIMENTS)),
        "metrics": {"train_loss": "train_loss", "val_loss": "valid_loss", "test_loss": "test_loss"},
        "settings": {
            "model": {"class_path": MODEL},
            "data": {"class_path": DATA},
            "trainer": {
                "accelerator": "cpu",
                "max_epochs": STUDY_EPOCHS,
                "callbacks": [{"class_path": "SparsityMonitor"}],
            },
        },
        "experiments": [
            {"name": "dense/first"},
            {"name": "dense/on", "parent": "dense/first"},
            {"name": "pruned/at-once", "parent": "dense/first", "overrides": pruned(amount=0.5)},
            {"name": "pruned/gradually", "parent": "dense/first", "overrides": pruned(amount=0.8, end_epoch=2)},
        ],
    }
    began = time.monotonic()
    done = lit_prune(folder, "study", plan, "--out", str(folder / "out"), "--jobs", str(jobs))
    seconds = time.monotonic() - began
    wanted = [f"{each['name']}/seed={seed}" for each in plan["experiments"] for seed in plan["seeds"]]
    faults = [f"{name}: {fault}" for name in wanted for fault in losses(folder / "out" / name)]
    faults += [f"unfinished file {path.name}" for path in (folder / "out").rglob("*.part")]
    if done.returncode:
        faults.append(f"status {done.returncode}\n{done.stdout}{done.stderr}")
    lost = {fault.split(":")[0] for fault in faults}
    whole = sum(name not in lost for name in wanted)
    text = f"{whole} of {len(wanted)} runs have a result, and have logged each of {STUDY_EPOCHS} epochs once"
    yield "\n  ".join([f"study: {text}, {seconds:.0f} s with {jobs} jobs", *faults]), not faults


def losses(folder: Path) -> Iterator[str]:
    """Yield a description of each missing result, and of each metric with missing or repeated epochs."""
    epochs = list(range(STUDY_EPOCHS))
    if not (folder / "result.json").is_file():
        yield "no result"
        return
    if (found := json.loads((folder / "result.json").read_text(encoding="utf-8"))["epochs"]) != STUDY_EPOCHS:
        yield f"a result after {found} epochs"
    with (folder / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in ("train_loss", "valid_loss", "sparsity/global"):
        if (logged := [int(row["epoch"]) for row in rows if row[name]]) != epochs:
            yield f"{name} in metrics.csv at epochs {logged}"
        if (logged := [event.step for event in events.Scalars(name)]) != epochs:
            yield f"{name} in the events at epochs {logged}"


def lit_prune(folder: Path, command: str, content: dict[str, Any], *argv: str) -> "subprocess.CompletedProcess[str]":
    """Run `lit-prune` with `content` as a YAML file, in a process that can import examples/moons.py and this script."""
    path = folder / f"{command}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    given = ["--config", str(path)] if command == "fit" else [str(path)]
    known = [str(ROOT / "examples"), str(ROOT / "scripts"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, known))}
    program = [sys.executable, "-m", "lit_prune", command, *given, *argv]
    return subprocess.run(program, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def main(argv: list[str] | None = None) -> int:
    """Print a line for each measurement; return 1 if a result is missing or a bound is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--runs", type=int, default=60, help="number of runs in the study; 0 skips the study (default: 60)"
    )
    parser.add_argument("--jobs", type=int, default=4, help="number of runs of the study at the same time (default: 4)")
    parser.add_argument(
        "--epochs", type=int, default=1000, help="epochs of the long training; 0 skips it (default: 1000)"
    )
    options = parser.parse_args(argv)
    if options.runs % EXPERIMENTS or options.runs < 0 or options.jobs < 1:
        parser.error(f"--runs must be a multiple of {EXPERIMENTS}, and --jobs at least 1")
    if options.epochs and options.epochs < 100:
        parser.error("--epochs must be at least 100, or 0")
    good = True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parts = [many_runs(folder, options.runs, options.jobs)] if options.runs else []
        parts += [long_run(folder, options.epochs)] if options.epochs else []
        for part in parts:
            for line, holds in part:
                print(line if holds else f"{line}: EXCEEDED", flush=True)
                good = good and holds
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
