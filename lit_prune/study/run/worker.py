"""One run of a study, in a process of its own: an ordinary `fit`, then `test` of its checkpoints.

`python -m lit_prune.study.run.worker OUT EXPERIMENT SEED` is the whole interface, the same for a process on this
machine, a task on another one, and the processes that a strategy launches. The process exits when its standard input
is closed, because the process that started it is gone.
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
from lit_prune.study.plan.run_settings import has_default_model, parent_checkpoint, run_folder, run_settings
from lit_prune.study.plan.stored import check_links, stored_plan
from lit_prune.training.cli import TrainingCLI
from lit_prune.training.launcher import exit_with_launcher
from lit_prune.training.resuming import find_newest_checkpoint
from lit_prune.training.run_folder import ERROR, RESULT

# settings of a run's Trainer that its test takes over
_SCORING = (
    *("accelerator", "devices", "strategy", "num_nodes", "precision", "deterministic", "benchmark"),
    *("limit_test_batches", "enable_progress_bar", "enable_model_summary"),
)


def main(argv: Sequence[str]) -> int:
    """Run one experiment with one seed, and write the reason of a failure to `error.txt` in the run's folder.

    Args:
        argv: The study's folder, the name of the experiment, and the seed.

    Returns:
        The exit status: 0, 1 if the run failed, 2 if its settings cannot be used.
    """
    out, name, seed = Path(argv[0]), argv[1], int(argv[2])
    folder = run_folder(out, name, seed)
    try:
        check_links(out)  # first, because error.txt goes to the run's folder, which could be a link
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
        print(failure.sentence, file=sys.stderr)
        try:
            write_text(folder / ERROR, failure.sentence + "\n")
        except OSError as unwritten:  # the disk may be full; the log has the reason, too
            print(unwritten, file=sys.stderr)
        return failure.status
    return 0


def run(plan: Plan, experiment: Experiment, seed: int, out: Path) -> None:
    """Train and score one experiment with one seed; an interrupted run is resumed.

    The run's folder then holds `config.yaml`, `metrics.csv`, TensorBoard events, `checkpoints/` without optimizer
    states, and `result.json`, which is written last.

    Raises:
        InputError: If the settings cannot be used.
    """
    began = time.monotonic()
    folder = run_folder(out, experiment.name, seed)
    if (folder / RESULT).is_file():
        return
    config = run_settings(plan, experiment, seed, out)
    checkpoint = _find_checkpoint(folder) if experiment.train else None
    with tempfile.TemporaryDirectory() as scratch:
        argv = ["fit", "--config", _write(config, Path(scratch) / "fit.yaml")]
        if checkpoint is not None:
            argv += ["--ckpt_path", str(checkpoint)]
        cli = TrainingCLI(argv, folder=folder, training=experiment.train)
        best = parent_checkpoint(folder, "best")
        last = parent_checkpoint(folder, "last")
        scored = {"last": last} | ({"best": best} if best != last else {})
        test: dict[str, dict[str, float]] = {}
        for which, path in scored.items() if _has_test(cli) else ():
            if which == "best" and cli.best_epoch == cli.trainer.current_epoch - 1:
                test["best"] = test["last"]  # the same epoch in two files
            else:
                test[which] = _score(config, path, Path(scratch))
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
    (folder / ERROR).unlink(missing_ok=True)
    write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")
    for path in scored.values():
        _drop_optimizer_state(path)


def _find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint to resume from, if there is one."""
    try:
        resumed = find_newest_checkpoint(folder)
    except InputError as error:
        print(f"{error} The run starts from the beginning.", file=sys.stderr)
        return None
    return resumed and resumed.path


def _has_test(cli: TrainingCLI) -> bool:
    """Return whether model and data, which may be custom, define a test."""
    data = cli.datamodule
    loads = is_overridden("test_dataloader", cli.model) or (data is not None and is_overridden("test_dataloader", data))
    return loads and is_overridden("test_step", cli.model)


def _score(config: dict[str, Any], path: Path, scratch: Path) -> dict[str, float]:
    settings: dict[str, Any] = {n: config[n] for n in ("seed_everything", "threads", "data") if n in config}
    settings["trainer"] = {name: config["trainer"][name] for name in _SCORING if name in config["trainer"]}
    settings["trainer"]["logger"] = False
    if not has_default_model(config):  # the default model is built from its checkpoint
        settings["model"] = config["model"]
    argv = ["test", "--config", _write(settings, scratch / "test.yaml"), "--ckpt_path", str(path)]
    with quiet(scoring=True):
        metrics = TrainingCLI(argv).trainer.callback_metrics
    return {name: float(value) for name, value in metrics.items()}


def _drop_optimizer_state(path: Path) -> None:
    """Remove from a checkpoint the state that only a resumed training needs, with Adam two thirds of the file."""
    stored = read_checkpoint(path)
    for name in ("optimizer_states", "lr_schedulers"):
        stored.pop(name, None)
    with replacing(path) as part:
        save(stored, part)


def _initial_weights(experiment: Experiment, config: dict[str, Any]) -> str | None:
    if experiment.parent is not None:
        return "parent"
    return (config["model"].get("weights") or "random") if has_default_model(config) else None


def _device(cli: TrainingCLI) -> str:
    device = cli.trainer.strategy.root_device
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _write(settings: dict[str, Any], path: Path) -> str:
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return str(path)


def _exit_with_parent() -> None:
    """Exit as soon as standard input is closed, so that no run survives a killed study."""

    def wait() -> None:
        while os.read(0, 4096):
            pass
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


if __name__ == "__main__":
    _exit_with_parent()
    exit_with_launcher()
    sys.exit(main(sys.argv[1:]))
