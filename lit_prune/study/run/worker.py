"""The process of one run of a study: it runs `fit`, then `test` on the last and the best checkpoint.

The fork server forks it, or a pool or a Ray task starts it with `python -m lit_prune.study.run OUT EXPERIMENT SEED`.
With a distributed strategy, Lightning starts the same command for every further device.
"""

import json
import platform
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout, suppress
from inspect import signature
from io import StringIO
from pathlib import Path
from typing import Any

import torch
import yaml
from lightning import __version__ as lightning_version
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import SingleDeviceStrategy
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData
from torch.utils.tensorboard.summary import hparams

from lit_prune import __version__
from lit_prune.cli.failures import Failure, describe_failure
from lit_prune.cli.quiet import quiet
from lit_prune.data import CIFAR10DataModule
from lit_prune.data.synthetic import SIZES, draw_split
from lit_prune.errors import InputError
from lit_prune.files.atomic import replacing, write_text
from lit_prune.files.checkpoint import read_checkpoint, save
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.study.plan.plan import Experiment, Plan
from lit_prune.study.plan.run_settings import has_default_model, parent_checkpoint, run_folder, run_settings
from lit_prune.study.plan.stored import check_links, stored_plan
from lit_prune.study.results.compute_measures import compute_measures
from lit_prune.study.results.run_files import RunResult, UnreadableError, read_logged
from lit_prune.training.cli import Parsers, TrainingCLI
from lit_prune.training.event_file import EventFile
from lit_prune.training.packages import has_test
from lit_prune.training.resuming import find_newest_checkpoint
from lit_prune.training.run_folder import ERROR, METRICS, RESULT

# hyper-parameters that are rarely changed by an experiment; TensorBoard shows the others first
_SHARED = (
    *("augment", "batch_norm", "batch_size", "checkpoint", "limit_train", "lr", "lr_scheduler", "max_epochs"),
    *("optimizer", "precision", "source", "stem", "weights"),
)
# settings of the Trainer that are also used when a run is tested
_TEST_SETTINGS = (
    *("accelerator", "devices", "strategy", "num_nodes", "precision", "deterministic", "benchmark"),
    *("limit_test_batches", "enable_progress_bar", "enable_model_summary"),
)


# the server's parser, which its forks use again
_parsers: Parsers = {}


def main(argv: Sequence[str]) -> int:
    """Run one experiment with one seed; if it fails, write the reason to `error.txt` in the run's folder.

    Args:
        argv: The study's folder, the name of the experiment, and the seed.

    Returns:
        The exit status: 0 for success, 1 if the run failed, 2 if its settings are invalid.
    """
    out, name, seed = Path(argv[0]), argv[1], int(argv[2])
    folder = run_folder(out, name, seed)
    try:
        check_links(out)  # before error.txt is written to the run's folder, which could be a link
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
        except OSError as unwritten:  # for example, a full disk; the reason is also in the log
            print(unwritten, file=sys.stderr)
        return failure.status
    return 0


def run(plan: Plan, experiment: Experiment, seed: int, out: Path) -> None:
    """Train and test one experiment with one seed; an interrupted run is resumed.

    Training writes `config.yaml`, `metrics.csv`, TensorBoard events and `checkpoints/` to the run's folder. After the
    tests, `result.json` is written, and optimizer states are removed from the checkpoints.

    Raises:
        InputError: If the settings are invalid.
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
        cli = TrainingCLI(argv, folder=folder, training=experiment.train, logs_hyperparameters=False, parsers=_parsers)
        paths = {which: parent_checkpoint(folder, which) for which in ("last", "best")}
        if paths["best"] == paths["last"]:
            del paths["best"]
        stored = {which: _read_weights(path) for which, path in paths.items()}
        test: dict[str, dict[str, float]] = {}
        for which, path in paths.items() if has_test(cli.trainer) else ():
            if which == "best" and cli.best_epoch == cli.trainer.current_epoch - 1:
                test["best"] = test["last"]  # the best epoch is the last epoch
            elif _is_alone(cli):
                test[which] = _test(cli, config, stored[which])
            else:
                test[which] = _test_command(config, path, Path(scratch))
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
    own = {"experiment": experiment.name, "parent": experiment.parent or "none", "checkpoint": experiment.checkpoint}
    measures = _measure(folder, plan, experiment, RunResult(cli.trainer.current_epoch, test))
    log_hyperparameters(folder, cli.hyperparameters | own | {"seed": seed}, measures, plan)
    (folder / ERROR).unlink(missing_ok=True)
    write_text(folder / RESULT, json.dumps(result, indent=1) + "\n")
    for which, path in paths.items():
        with replacing(path) as part:
            save(stored[which], part)


def prepare(argv: Sequence[str]) -> None:
    """Do once what all runs of a study would repeat, before their process forks; torch must not compute anything here.

    Args:
        argv: Arguments of one of the runs, as for `main`.
    """
    import matplotlib.backends.backend_agg  # noqa: F401 - for the figures of SparsityMonitor

    with suppress(InputError):  # a run reports it
        settings = stored_plan(Path(argv[0])).settings
        data = settings.get("data") or {}
        if isinstance(data, dict) and data.get("source") == "synthetic":
            for split in SIZES:
                draw_split(split)
        if has_default_model(settings) and "class_path" not in data:
            with suppress(SystemExit), redirect_stdout(StringIO()):
                TrainingCLI(["fit", "--print_config"], parsers=_parsers)


def _measure(folder: Path, plan: Plan, experiment: Experiment, result: RunResult) -> dict[str, float]:
    """Return the measures of the run, as in the report; none if the model logs none of the plan's metrics."""
    try:
        logged = read_logged(folder / METRICS, plan.metrics, experiment.train)
    except UnreadableError:
        return {}
    return compute_measures(logged, result, plan.metrics, experiment.train)


def log_hyperparameters(
    folder: Path, hyperparameters: dict[str, Any], measures: Mapping[str, float], plan: Plan
) -> None:
    """Log the entry of a run in TensorBoard's HParams tab.

    The metrics of the entry are the last values of curves, the accuracies of the tests, and the best validation
    accuracy; the last two are logged here, because they are single values.
    """
    curves = [plan.metrics[role] for role in ("val_acc", "train_acc", "val_loss") if role in plan.metrics]
    test = plan.metrics.get("test_acc", "test/acc")
    single = {test: "final_test_acc", f"{test}_of_best": "test_acc_at_best", "val/best_acc": "best_val_acc"}
    # every run lists the same metrics, also those it lacks, because TensorBoard takes the list from one of the runs
    described, *session = hparams(hyperparameters, dict.fromkeys([*single, *curves, "sparsity/global"]))  # type: ignore[no-untyped-call]
    content = described.value[0].metadata.plugin_data
    data = HParamsPluginData.FromString(content.content)
    for info in data.experiment.hparam_infos:
        info.differs = info.name not in _SHARED
    content.content = data.SerializeToString()
    points = [Summary.Value(tag=tag, simple_value=measures[name]) for tag, name in single.items() if name in measures]
    file = EventFile(folder)
    for summary in (described, *session, Summary(value=points)):
        file.add_event(Event(wall_time=time.time(), step=int(measures.get("epochs", 0)), summary=summary))
    file.close()


def _find_checkpoint(folder: Path) -> Path | None:
    """Return the checkpoint from which an interrupted run resumes; None to start from the beginning."""
    try:
        resumed = find_newest_checkpoint(folder)
    except InputError as error:
        print(f"{error} The run starts from the beginning.", file=sys.stderr)
        return None
    return resumed and resumed.path


def _read_weights(path: Path) -> dict[str, Any]:
    """Read a checkpoint without the optimizer and scheduler states; with Adam, they are two thirds of the file."""
    stored = read_checkpoint(path)
    for name in ("optimizer_states", "lr_schedulers"):
        stored.pop(name, None)
    return stored


def _is_alone(cli: TrainingCLI) -> bool:
    """Return whether a run uses this project's model and data module, in one process.

    Test results of these two classes depend on nothing but their arguments and weights. Those of other classes may also
    depend, for example, on the state of random number generators.
    """
    kinds = (type(cli.model), type(cli.datamodule), type(cli.trainer.strategy))
    return kinds == (LitResNet18, CIFAR10DataModule, SingleDeviceStrategy)


def _test(cli: TrainingCLI, config: dict[str, Any], stored: dict[str, Any]) -> dict[str, float]:
    """Test a checkpoint's weights as `lit-prune test` would, without parsing options or reading the file again."""
    # new objects, because callbacks of the training may have changed those in memory
    model, data = (_build_again(module) for module in (cli.model, cli.datamodule))
    model.load_state_dict(stored["state_dict"])
    with quiet(scoring=True):
        trainer = Trainer(**_test_settings(config) | {"strategy": "auto", "enable_checkpointing": False})
        trainer.test(model, data, verbose=False)
    return _scores(trainer)


def _build_again(module: Any) -> Any:
    kept = signature(type(module)).parameters.keys() - {"weights", "init_from", "optimizer", "lr_scheduler"}
    return type(module)(**{name: module.hparams[name] for name in kept})


def _test_command(config: dict[str, Any], path: Path, scratch: Path) -> dict[str, float]:
    settings: dict[str, Any] = {n: config[n] for n in ("seed_everything", "threads", "data") if n in config}
    settings["trainer"] = _test_settings(config)
    if not has_default_model(config):  # the default model is rebuilt from the settings in its checkpoint
        settings["model"] = config["model"]
    argv = ["test", "--config", _write(settings, scratch / "test.yaml"), "--ckpt_path", str(path)]
    with quiet(scoring=True):
        return _scores(TrainingCLI(argv).trainer)


def _test_settings(config: dict[str, Any]) -> dict[str, Any]:
    given = config["trainer"]
    return {name: given[name] for name in _TEST_SETTINGS if name in given} | {"logger": False}


def _scores(trainer: Any) -> dict[str, float]:
    return {name: float(value) for name, value in trainer.callback_metrics.items()}


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
