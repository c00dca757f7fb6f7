"""Kill a training at random moments, resume it each time, and compare its results with those of an uninterrupted run.

    python scripts/crash_test.py --kills 25 --seed 0

A training with temporary freezing, gradual pruning and removal of the masks runs once without interruption; with
`--callbacks rigl`, one whose masks change every three steps. Then the same training starts, is killed (SIGKILL) and
resumed until it finishes; this repeats until `--kills` kills are done. A kill comes while the process trains,
validates, prunes, writes a checkpoint, replaces a file or logs, or at a random time. The weights, masks, optimizer
state, metrics and TensorBoard events of each finished run are compared with those of the uninterrupted run. Prints a
line for each kill and a summary; the exit status is 0 if all runs are identical.
"""

import argparse
import csv
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from lit_prune.files.checkpoint import read_checkpoint
from lit_prune.models.resnet18_channels import FULL_CHANNELS

RUN = Path("lightning_logs/crash/version_0")
EPOCHS = 6
SETTINGS: dict[str, Any] = {
    "data.source": "synthetic",
    "data.limit_train": 32,
    "data.val_size": 40,
    "data.batch_size": 8,
    "data.eval_batch_size": 20,
    "trainer.accelerator": "cpu",
    "trainer.max_epochs": EPOCHS,
    "trainer.enable_progress_bar": "false",
    "trainer.enable_model_summary": "false",
    "threads": 1,
    "name": "crash",
}
Callbacks = list[tuple[str, dict[str, Any]]]  # names and arguments
CALLBACKS: dict[str, Callbacks] = {
    "pruning": [
        ("LayerFreezing", {"fraction": 0.3, "unfreeze_epoch": 2}),
        ("GlobalL1Pruning", {"amount": 0.6, "start_epoch": 1, "end_epoch": 3}),
        ("PruningRemoval", {"epoch": 4}),
        ("SparsityMonitor", {}),
    ],
    "rigl": [("RigL", {"amount": 0.6, "every_n_steps": 3}), ("SparsityMonitor", {})],
}
# by phase: the function during which to kill the process, and the upper bounds of two random numbers: which call of
# the function, and how many seconds after the start of that call
PHASES = {
    "training": ("lit_prune.models.resnet18:LitResNet18.training_step", 20, 0.2),
    "validating": ("lit_prune.models.resnet18:LitResNet18.validation_step", 4, 0.1),
    "pruning": ("lit_prune.callbacks._pruning:Pruning._prune", 2, 0.03),
    "writing a checkpoint": ("lit_prune.training.checkpoint_io:save", 6, 0.3),
    "replacing a file": ("pathlib:Path.replace", 8, 0.002),
    "logging": ("lit_prune.training.loggers:_Rows.save", 8, 0.005),
}
CHANGING = {"changing masks": ("lit_prune.callbacks.sparse_training:regrow_masks", 4, 0.03)}  # with RigL
ANY = "any moment"


def main() -> int:
    """Run all trainings and compare them; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="number of kills (default: 25)")
    parser.add_argument("--seed", type=int, default=0, help="random seed used to choose when to kill (default: 0)")
    parser.add_argument("--narrow", action="store_true", help="train a network with an eighth of the channels")
    parser.add_argument("--callbacks", choices=CALLBACKS, default="pruning", help="callbacks to use (default: pruning)")
    options = parser.parse_args()
    callbacks = CALLBACKS[options.callbacks]
    if options.callbacks == "rigl":
        PHASES.update(CHANGING)
    if options.narrow:
        SETTINGS["model.channels"] = json.dumps({name: width // 8 for name, width in FULL_CHANNELS.items()})
    draw = random.Random(options.seed)  # noqa: S311 - not for secrets
    with tempfile.TemporaryDirectory() as scratch:
        whole = Path(scratch) / "whole"
        began = time.monotonic()
        if (status := _start(whole, callbacks).wait()) != 0:
            print((whole / "log.txt").read_text(encoding="utf-8"), file=sys.stderr)
            print(f"The uninterrupted run failed with exit status {status}.", file=sys.stderr)
            return 1
        duration = time.monotonic() - began
        print(f"uninterrupted: {EPOCHS} epochs in {duration:.0f} s")
        return _crash(Path(scratch), whole / RUN, callbacks, options.kills, draw, duration)


def _crash(scratch: Path, whole: Path, callbacks: Callbacks, kills: int, draw: random.Random, duration: float) -> int:
    killed, runs, equal = 0, 0, 0
    moments: list[str] = []  # all moments in random order; refilled when empty
    while killed < kills:
        runs += 1
        folder = scratch / f"run-{runs}"
        while not (folder / RUN / "summary.txt").is_file():
            moments = moments or draw.sample([*PHASES, ANY], len(PHASES) + 1)
            moment = moments.pop() if killed < kills else None
            status = _run(folder, callbacks, moment, draw, duration)
            if status == -signal.SIGKILL:
                killed += 1
                print(f"kill {killed:2d} (run {runs}): {moment}, {_left(folder / RUN)}", flush=True)
            elif status != 0:
                print((folder / "log.txt").read_text(encoding="utf-8"), file=sys.stderr)
                print(f"The run failed with exit status {status}.", file=sys.stderr)
                return 1
        faults = list(differences(whole, folder / RUN))
        equal += not faults
        print(f"run {runs} finished: " + (f"DIFFERENT: {', '.join(faults)}" if faults else "identical"), flush=True)
        shutil.rmtree(folder)
    print(f"{killed} kills; {equal} of {runs} runs identical to the uninterrupted one")
    return 0 if equal == runs else 1


def _run(folder: Path, callbacks: Callbacks, moment: str | None, draw: random.Random, duration: float) -> int:
    """Start or resume the run, kill it at `moment` if it gets that far, and return its exit status."""
    if moment == ANY:
        process = _start(folder, callbacks)
        try:
            return process.wait(timeout=draw.uniform(0.2, duration))
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()
    if moment is None:
        return _start(folder, callbacks).wait()
    function, calls, seconds = PHASES[moment]
    return _start(folder, callbacks, f"{function} {draw.randint(1, calls)} {draw.uniform(0, seconds)}").wait()


def _start(folder: Path, callbacks: Callbacks, moment: str | None = None) -> "subprocess.Popen[bytes]":
    """Start or resume the training in a new process, which kills itself at `moment` if one is given."""
    folder.mkdir(exist_ok=True)
    argv = ["fit", "--resume", *(f"--{name}={value}" for name, value in SETTINGS.items())]
    for name, arguments in callbacks:
        argv += [f"--trainer.callbacks+={name}", *(f"--trainer.callbacks.{k}={v}" for k, v in arguments.items())]
    environment = dict(os.environ) | {"OMP_NUM_THREADS": "1"}
    environment.pop("CRASH_AT", None)
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, Path(__file__).absolute(), "--child", *argv],
            cwd=folder,
            env=environment | ({"CRASH_AT": moment} if moment else {}),
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _child(argv: list[str]) -> int:
    """Run `lit-prune`; kill this process at the moment that the environment variable CRASH_AT gives, if it is set."""
    from lit_prune.main import main as lit_prune

    if "CRASH_AT" in os.environ:
        function, call, seconds = os.environ["CRASH_AT"].split()
        _kill_in(function, int(call), float(seconds))
    return lit_prune(argv)


def _kill_in(function: str, call: int, seconds: float) -> None:
    """Kill this process `seconds` after call number `call` of a function has started."""
    module, path = function.split(":")
    owner: Any = __import__(module, fromlist=["_"])
    *owners, name = path.split(".")
    for part in owners:
        owner = getattr(owner, part)
    original: Callable[..., Any] = getattr(owner, name)
    calls = 0

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == call:
            threading.Timer(seconds, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
        return original(*args, **kwargs)

    setattr(owner, name, counted)


def _left(run: Path) -> str:
    """Describe the files that a killed run has left."""
    if not run.is_dir():
        return "no folder yet"
    logged = len(rows(run / "metrics.csv")) if (run / "metrics.csv").is_file() else 0
    halves = [path.name.lstrip(".").rsplit(".", 2)[0] for path in run.rglob(".*.part")]
    return f"{logged} rows on disk" + "".join(f", unfinished {name}" for name in halves)


def differences(run: Path, other: Path) -> Iterator[str]:
    """Yield each difference between two finished runs, except in times, such as "weights of checkpoints/last.ckpt".

    Args:
        run: Folder of one run.
        other: Folder of the other run.
    """
    for name in sorted({*_checkpoints(run), *_checkpoints(other)}):
        if not (run / name).is_file() or not (other / name).is_file():
            yield f"{name} is not in both runs"
            continue
        one, two = read_checkpoint(run / name), read_checkpoint(other / name)
        for key, what in _COMPARED.items():
            if not _same(one[key], two[key]):
                yield f"{what} of {name}"
        states = [_states(content["callbacks"]) for content in (one, two)]
        if not states[0] or not _same(states[0], states[1]):
            yield f"masks of {name}"
    if rows(run / "metrics.csv") != rows(other / "metrics.csv"):
        yield "metrics.csv"
    if _events(run) != _events(other):
        yield "events"


_COMPARED = {
    "state_dict": "weights",
    "optimizer_states": "optimizer",
    "lr_schedulers": "schedulers",
    "epoch": "epoch",
    "global_step": "step",
}


def _states(callbacks: dict[str, Any]) -> dict[str, Any]:
    """Return the states of lit-prune's callbacks, such as masks and, with RigL, sums of gradients."""
    ours = tuple(name for callbacks in CALLBACKS.values() for name, _ in callbacks)
    return {key: state for key, state in callbacks.items() if key.startswith(ours)}


def _checkpoints(run: Path) -> list[str]:
    return [str(path.relative_to(run)) for path in run.glob("checkpoints/*")]


def _same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_same, one, other))
    return bool(one == other)


def rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a `metrics.csv`, without times and empty cells."""
    with path.open(newline="", encoding="utf-8") as file:
        return [{k: v for k, v in row.items() if v and k != "time/epoch"} for row in csv.DictReader(file)]


def _events(run: Path) -> dict[str, list[tuple[int, float]]]:
    accumulator = EventAccumulator(str(run), size_guidance={"scalars": 0})
    accumulator.Reload()
    names = set(accumulator.Tags()["scalars"]) - {"train/time"}
    return {name: [(event.step, event.value) for event in accumulator.Scalars(name)] for name in names}


if __name__ == "__main__":
    sys.exit(_child(sys.argv[2:]) if sys.argv[1:2] == ["--child"] else main())
