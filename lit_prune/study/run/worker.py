"""One run of a study, in a process of its own: an ordinary `fit`, then `test` of its checkpoints.

`python -m lit_prune.study.run.worker OUT EXPERIMENT SEED` is the whole interface, so that a process on this machine, a
task on another machine and the processes that a strategy launches all run the same thing. It ends when its standard
input does: the process that wanted the run is gone.
"""

import json
import os
import platform
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import __version__ as lightning_version
from lightning.pytorch.utilities.model_helpers import is_overridden

from lit_prune import __version__
from lit_prune.cli.failures import Failure, describe_failure
from lit_prune.cli.quiet import quiet
from lit_prune.errors import InputError
from lit_prune.files.atomic import replacing, write_text
from lit_prune.files.checkpoint import read_checkpoint, save
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import is_ours, parent_checkpoint, run_folder, run_settings
from lit_prune.study.plan.stored import check_links, stored_plan
from lit_prune.training.cli import TrainingCLI
from lit_prune.training.launcher import exit_with_launcher
from lit_prune.training.resuming import newest_loadable

__all__ = ["run"]

# what of a Trainer's settings matters when a model is scored
_SCORING = ("accelerator", "devices", "strategy", "num_nodes", "precision", "deterministic", "benchmark")
_LIMITS = ("limit_test_batches", "enable_progress_bar", "enable_model_summary")


def main(argv: Sequence[str]) -> int:
    """Run one experiment with one seed; what goes wrong is in `error.txt` of the run's folder.

    Args:
        argv: The study's folder, the experiment's name and the seed.

    Returns:
        The exit status: 0, 1 for a run that failed, 2 for settings that cannot be used.
    """
    out, name, seed = Path(argv[0]), argv[1], int(argv[2])
    folder = run_folder(out, name, seed)
    try:
        check_links(out)  # first: what goes wrong is written into the run's folder, which a link could be
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    folder.mkdir(parents=True, exist_ok=True)
    try:
        plan = stored_plan(out)
        with quiet():
            run(plan, plan[name], seed, out)
    except Exception as error:
        failure = describe_failure(error)
        if failure is None:
            traceback.print_exc()
            failure = Failure(f"{type(error).__name__}: {' '.join(str(error).split())}", 1)
        _note(folder, failure.sentence)
        return failure.status
    return 0


def run(plan: Plan, experiment: Experiment, seed: int, out: Path) -> None:
    """Train and score one experiment with one seed, from where an earlier try was cut off.

    Args:
        plan: The study.
        experiment: One of its experiments.
        seed: One of its seeds.
        out: The study's folder. The run leaves `config.yaml`, `metrics.csv`, events, `checkpoints/` without optimizer
            state, and at last `result.json` in its own folder below.

    Raises:
        InputError: If the settings cannot be used.
    """
    began = time.monotonic()
    folder = run_folder(out, experiment.name, seed)
    if (folder / "result.json").is_file():
        return
    config = run_settings(plan, experiment, seed, out)
    checkpoint = _newest(folder) if experiment.train else None
    with tempfile.TemporaryDirectory() as scratch:
        argv = ["fit", "--config", _write(config, Path(scratch) / "fit.yaml")]
        if checkpoint is not None:
            argv += ["--ckpt_path", str(checkpoint)]
        cli = TrainingCLI(argv, folder=folder, training=experiment.train)
        best = parent_checkpoint(folder, "best")
        last = parent_checkpoint(folder, "last")
        scored = {"last": last} | ({"best": best} if best != last else {})
        test: dict[str, dict[str, float]] = {}
        for which, path in scored.items() if _tests(cli) else ():
            if which == "best" and cli.best_epoch == cli.trainer.current_epoch - 1:
                test["best"] = test["last"]  # one epoch, in two files
            else:
                test[which] = _score(cli, config, path, Path(scratch))
    if not cli.trainer.is_global_zero:
        return
    result = {
        "format": 1,
        "experiment": experiment.name,
        "seed": seed,
        "epochs": cli.trainer.current_epoch,
        "initial_weights": _initial_weights(experiment, config),
        "best_epoch": cli.best_epoch,
        "test": test,
        "environment": {
            "lit_prune": __version__,
            "torch": torch.__version__,
            "lightning": lightning_version,
            "python": platform.python_version(),
            "device": _device(cli),
            "threads": plan.threads,
        },
        "seconds": time.monotonic() - began,
    }
    (folder / "error.txt").unlink(missing_ok=True)
    write_text(folder / "result.json", json.dumps(result, indent=1) + "\n")
    for path in scored.values():
        _forget_optimizer(path)


def _newest(folder: Path) -> Path | None:
    """The checkpoint to go on from, if an earlier try has left one."""
    try:
        resumed = newest_loadable(folder)
    except InputError as error:
        print(f"{error} The run begins anew.", file=sys.stderr)
        return None
    return resumed and resumed.path


def _tests(cli: TrainingCLI) -> bool:
    """Whether there is a test to be had from somebody else's model and data."""
    data = cli.datamodule
    loads = is_overridden("test_dataloader", cli.model) or (data is not None and is_overridden("test_dataloader", data))
    return loads and is_overridden("test_step", cli.model)


def _score(cli: TrainingCLI, config: dict[str, Any], path: Path, scratch: Path) -> dict[str, float]:
    trainer = {name: value for name, value in config["trainer"].items() if name in (*_SCORING, *_LIMITS)}
    kept = ("seed_everything", "threads", "data")
    settings: dict[str, Any] = {name: config[name] for name in kept if name in config}
    settings["trainer"] = trainer | {"logger": False}
    if not is_ours(config):  # a checkpoint of ours knows how its model was built, and may begin with another file
        settings["model"] = config["model"]
    argv = ["test", "--config", _write(settings, scratch / "test.yaml"), "--ckpt_path", str(path)]
    with quiet(scoring=True):
        metrics = TrainingCLI(argv).trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}


def _forget_optimizer(path: Path) -> None:
    """Drop from a checkpoint what only a resumed training needs: two thirds of it under Adam."""
    stored = read_checkpoint(path)
    for name in ("optimizer_states", "lr_schedulers"):
        stored.pop(name, None)
    with replacing(path) as part:
        save(stored, part)


def _initial_weights(experiment: Experiment, config: dict[str, Any]) -> str | None:
    if experiment.parent is not None:
        return "parent"
    return (config["model"].get("weights") or "random") if is_ours(config) else None


def _device(cli: TrainingCLI) -> str:
    device = cli.trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _write(settings: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


def _note(folder: Path, sentence: str) -> None:
    print(sentence, file=sys.stderr)
    try:
        write_text(folder / "error.txt", sentence + "\n")
    except OSError as error:  # the disk may be full, and the log already says why
        print(error, file=sys.stderr)


def _end_with_parent() -> None:
    """End when standard input does: a killed study leaves no run behind."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _end_with_parent()
    exit_with_launcher()
    sys.exit(main(sys.argv[1:]))
