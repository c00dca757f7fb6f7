"""The folder, loggers and callbacks of a run, and checks of its options."""

import shlex
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback

import lit_prune.callbacks
from lit_prune.callbacks import Pruning, SparsityMonitor
from lit_prune.callbacks._checks import base_names
from lit_prune.cli.failures import describe_failure
from lit_prune.cli.signals import StopSignals
from lit_prune.errors import UnfinishedError, expected
from lit_prune.files.checkpoint import KEY, Settings, check_state_dict, read_state_dict
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.training.callbacks import (
    CheckpointOnSignal,
    CompiledTraining,
    FiniteLoss,
    LayerSummary,
    PredictionTable,
    Progress,
    RunningMetrics,
    RunSummary,
)
from lit_prune.training.checkpoint_io import AtomicCheckpointIO
from lit_prune.training.custom_classes import split_options
from lit_prune.training.hyperparameters import choose_hyperparameters
from lit_prune.training.launcher import check_strategy
from lit_prune.training.loggers import make_loggers, truncate_logs
from lit_prune.training.packages import derive, import_from
from lit_prune.training.precedence import collect_settings
from lit_prune.training.resuming import (
    Checkpoint,
    find_newest_checkpoint,
    find_run,
    is_finished,
    remove_stale_files,
    training_limits,
)
from lit_prune.training.run_folder import (
    BEST,
    CHECKPOINTS,
    LAST,
    LOGS,
    METRICS,
    claim_folder,
    is_rank_zero,
    lock_run,
    mark_finished,
    remove_unused,
)

_MOST_THREADS = 1024
_LARGEST_SEED = 2**32 - 1  # NumPy accepts no larger seed
# options of the Trainer that must be above 0, because Lightning divides by them
_POSITIVE = ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")


class Run:
    """The folder, loggers and callbacks of one run.

    Args:
        argv: The command and its options.
        package: Package of the Trainer, "lightning.pytorch" or "pytorch_lightning".
        folder: Run folder to use; None creates a new one.
        stopping: Handler of SIGTERM and SIGINT, with which `fit` saves a checkpoint before it stops; if None, the run
            does not handle these signals.
        resources: Exit stack that the caller closes after the run. Closing it unlocks the run folder, and removes a
            new run folder if the run failed before it wrote results.

    Attributes:
        checkpoint: Checkpoint that `--resume` found or that `--ckpt_path` names; None if there is none.
        stored: Settings stored in `checkpoint`; empty if it is None.
        folder: Run folder; None before it is created, and if nothing is written to it.
        summary: Callback that summarizes the training; exists only for `fit`.
    """

    summary: RunSummary

    def __init__(
        self,
        argv: Sequence[str],
        package: str,
        folder: Path | None,
        stopping: StopSignals | None,
        resources: ExitStack,
    ) -> None:
        self.checkpoint: Checkpoint | None = None
        self.stored: Settings = {}
        self.folder: Path | None = None
        self._argv = argv
        self._command = argv[0]
        self._package = package
        self._existing = folder
        self._stopping = stopping
        self._resources = resources
        self._can_resume = False  # with `--resume`, which needs the default loggers
        self._dirpath: Path | None = None  # folder of checkpoints; None: Lightning chooses it
        self._resume: tuple[Path, str] | None = None  # checkpoint to resume from, and how

    @property
    def continues(self) -> bool:
        """Whether the run resumes in the folder of its checkpoint, rather than in a new folder."""
        return self.checkpoint is not None and self.checkpoint.path.parent.parent == self._existing

    def resume(self, config: Namespace, name: str, argv: list[str]) -> None:
        """Find the run to resume, lock its folder, read its newest checkpoint, and set `ckpt_path` to that checkpoint.

        If the run does not exist yet, do nothing. If it has no checkpoint, it will start again in its folder.

        Raises:
            InputError: If the run cannot be resumed.
            SystemExit: If the run is already finished.
        """
        folder = find_run(config, name, argv)
        if folder is None:
            return
        self._existing = folder
        self._resources.enter_context(lock_run(folder))
        self.checkpoint = find_newest_checkpoint(folder)
        if self.checkpoint is None:
            return
        if is_finished(folder, self.checkpoint.content, training_limits(config.trainer)):
            limit = "max_epochs" if config.trainer.max_steps == -1 else "max_steps"
            print(f"The run in {folder} is finished. To train longer, increase `--trainer.{limit}`.")
            raise SystemExit(0)
        config.ckpt_path = str(self.checkpoint.path)

    def load_weights(self, model: LightningModule, init_from: str | None) -> None:
        """Load the weights of `--init_from`, or check the weights in `checkpoint`, which the Trainer loads later.

        Raises:
            InputError: If the weights do not fit the model, or `fit` cannot resume from the checkpoint.
        """
        if self.checkpoint is None:
            if init_from is not None:
                weights = read_state_dict(init_from)
                check_state_dict(model, weights, init_from)
                model.load_state_dict(weights)
            return
        path, content = self.checkpoint
        if self._command == "fit" and "optimizer_states" not in content:
            found = f"`{path}`, which holds no optimizer state"
            option = "--model.init_from" if type(model) is LitResNet18 else "--init_from"
            hint = f"to start a new run from its weights, use `{option}`"
            raise expected("a checkpoint from which training can resume", found, hint)
        check_state_dict(model, content["state_dict"], path)

    def trainer_arguments(self, config: Namespace, trainer: Namespace, model: LightningModule) -> dict[str, Any]:
        """Return the loggers, plugins and callbacks to pass to the Trainer: those of every run, and those of the user.

        Args:
            config: The parsed options of the command.
            trainer: The options of the Trainer, with their classes instantiated.
            model: The model.

        Raises:
            InputError: If a callback that the resumed run needs is missing, or the run folder cannot be used.
        """
        arguments: dict[str, Any] = {}
        given = _as_list(trainer.callbacks)
        if self._command == "fit" and self.checkpoint is not None:
            self._check_callbacks(given, *self.checkpoint)
        self._can_resume = trainer.logger in (None, True) and not trainer.fast_dev_run
        if self._can_resume:
            arguments["logger"] = self._make_loggers(Path(trainer.default_root_dir or "."), config.name)
        elif not trainer.fast_dev_run:
            self._find_folder(config, _as_list(trainer.logger))
        plugins = _as_list(trainer.plugins)
        if not any("CheckpointIO" in base_names(plugin) for plugin in plugins):
            arguments["plugins"] = [*plugins, derive(AtomicCheckpointIO, self._package, "plugins.TorchCheckpointIO")()]
        if self._command == "fit":
            given = [*given, *self._training_callbacks(config, given, model)]
        elif self._command == "predict":
            given = [*given, PredictionTable()]
        return arguments | {"callbacks": [*self._displays(config.trainer, given), *given]}

    def print_scores(self, trainer: Trainer) -> None:
        """Print the metrics of `validate` or `test`, and where they were written."""
        if trainer.is_global_zero:
            scores = {name: f"{float(value):.4g}" for name, value in sorted(trainer.callback_metrics.items())}
            width = max(map(len, scores), default=0)
            print("\n".join(f"{name:{width}s}  {score}" for name, score in scores.items()))
            if self.folder is not None and (self.folder / METRICS).is_file():
                print(f"written to {self.folder / METRICS}")

    def explain_stop(self, error: OSError) -> Exception:
        """Return an error that says how to resume after `error`; return `error` itself if the run cannot be resumed."""
        failure = None if self._resume is None else describe_failure(error, self._resume[1])
        if self._resume is None or failure is None or not self._resume[0].is_file():
            return error
        return UnfinishedError(failure.sentence)

    def finish(self, trainer: Trainer) -> None:
        """Print the summary of a finished training, and write it to the run folder."""
        if trainer.is_global_zero:
            text = self.summary.text(trainer)
            if self.folder is not None:
                mark_finished(self.folder, text)
            print(f"\n{text}")

    def _displays(self, trainer: Namespace, given: list[Callback]) -> list[Callback]:
        """Return the progress bar and the model summary, unless the user has turned them off or chosen others."""
        displays: list[Callback] = []
        if trainer.enable_progress_bar is not False and not any("ProgressBar" in base_names(one) for one in given):
            displays.append(derive(Progress, self._package, "callbacks.TQDMProgressBar")(self.folder))
        if trainer.enable_model_summary is not False and not any("ModelSummary" in base_names(one) for one in given):
            displays.append(derive(LayerSummary, self._package, "callbacks.ModelSummary")())
        return displays

    def _check_callbacks(self, given: list[Callback], path: Path, content: dict[str, Any]) -> None:
        """Raise an `InputError` if a callback that froze or pruned before the checkpoint is missing."""
        stored = content.get(KEY, {}).get("callbacks", [])
        needed = {name for name in stored if name in lit_prune.callbacks.__all__ and name != "SparsityMonitor"}
        if missing := sorted(needed - {type(callback).__name__ for callback in given}):
            option = f"`--trainer.callbacks+={missing[0]}`"
            hint = f"add {option} with its arguments, or pass the `config.yaml` of that run to `--config`"
            raise expected(f"the callbacks of the run that wrote `{path}`", f"no {missing[0]}", hint)

    def _make_loggers(self, root: Path, name: str) -> list[Any]:
        if self._existing is None:
            return make_loggers(self._claim_folder(root, name), self._package)
        self.folder = self._existing
        if is_rank_zero():  # all options have been checked, so files may be changed from here on
            content = self.checkpoint.content if self.checkpoint is not None and self.continues else None
            remove_stale_files(self.folder, content)
            if content is not None:
                truncate_logs(self.folder, content.get(KEY, {}).get("logs", {}))
        return make_loggers(self.folder, self._package)

    def _claim_folder(self, root: Path, name: str) -> Path:
        """Create a new run folder and lock it; if the run fails before it writes results, the folder is removed."""
        self.folder = folder = claim_folder(root, name)
        self._resources.push(lambda _, error, __: remove_unused(folder) if isinstance(error, Exception) else None)
        if self._command == "fit":
            self._resources.enter_context(lock_run(folder))
        return folder

    def _find_folder(self, config: Namespace, loggers: list[Any]) -> None:
        """Choose the folder of a run without the default loggers: that of a logger, or a new one for checkpoints."""
        folders = [str(folder) for logger in loggers if (folder := getattr(logger, "log_dir", None)) is not None]
        if folders and "://" not in folders[0]:
            self.folder = Path(folders[0])
        elif not folders and self._command == "fit" and config.trainer.enable_checkpointing is not False:
            self._dirpath = self._claim_folder(Path(config.trainer.default_root_dir or "."), config.name) / CHECKPOINTS

    def _training_callbacks(self, config: Namespace, given: list[Callback], model: LightningModule) -> list[Callback]:
        settings = collect_settings(config)
        custom = "class_path" in settings["model"]
        # keep the stored origin of the initial weights, which the options of a resumed run do not contain
        stored = self.stored.get("model", {})
        settings["model"] |= {name: stored[name] for name in ("weights", "init_from") if name in stored}
        if not custom:  # a model with initial weights from `lit-prune shrink` has fewer channels than the options say
            settings["model"]["channels"] = model.hparams["channels"]
        compared = choose_hyperparameters(settings, config.trainer)
        limits = training_limits(config.trainer)
        folder = (self.folder or Path(config.trainer.default_root_dir or ".")) / CHECKPOINTS
        test = folder / LAST, _test_command(self._argv, settings)
        self.summary = RunSummary(settings, compared, limits, test, continues=self.continues)
        callbacks: list[Callback] = [RunningMetrics(), self.summary]
        if config.compile:
            callbacks.append(CompiledTraining(None if config.compile is True else config.compile))
        if config.on_nan == "stop":
            callbacks.append(FiniteLoss(folder / LAST))
        saves = config.trainer.enable_checkpointing is not False
        if self._stopping is not None:
            again = f"the same command and `--ckpt_path {shlex.quote(str(folder / LAST))}`"
            resume = f"`lit-prune fit --resume {shlex.quote(str(self.folder))}`" if self._can_resume else again
            self._resume = (folder / LAST, f"resume with {resume}")
            callbacks.append(CheckpointOnSignal(self._stopping, folder / LAST if saves else None, resume))
        if not saves:
            return callbacks
        # save at the end of an epoch, after validation, so that a resumed run starts with the next epoch
        kind = import_from(self._package, "callbacks.ModelCheckpoint")
        keep = partial(kind, self._dirpath, auto_insert_metric_name=False, save_on_train_epoch_end=True)
        # a callback only for last.ckpt: with `save_last=True`, `best` below would write it only after the best epochs
        checkpoints = [keep(filename=Path(LAST).stem, enable_version_counter=False)]
        if not custom:  # a custom model need not log `val/acc`
            best = keep(monitor="val/acc", mode="max", filename=BEST + "{epoch:03d}-val_acc={val/acc:.4f}")
            checkpoints.insert(0, best)  # first, because last.ckpt stores the path of the best checkpoint
        replaced = {callback.state_key for callback in given}
        return [*callbacks, *(callback for callback in checkpoints if callback.state_key not in replaced)]


def check_options(config: Namespace) -> None:
    """Raise an `InputError` for values out of range that neither the parser nor Lightning would reject."""
    if isinstance(seed := config.seed_everything, int) and not 0 <= seed <= _LARGEST_SEED:
        raise expected(f"`--seed_everything` in [0, {_LARGEST_SEED}]", seed, "choose a seed in this range")
    if config.threads is not None and config.threads not in range(1, _MOST_THREADS + 1):
        raise expected(f"`--threads` in [1, {_MOST_THREADS}]", config.threads, "omit it for torch's default")
    if "://" in (root := str(config.trainer.default_root_dir)):
        local = root.removeprefix("file://")
        hint = "copy the run there afterwards" if local == root else f"write it as `{local}`"
        raise expected("`--trainer.default_root_dir` to be a local folder", f"`{root}`", hint)
    check_strategy(config.trainer.strategy)
    for name in _POSITIVE:
        value = getattr(config.trainer, name, None)
        if isinstance(value, int | float) and value <= 0:
            raise expected(f"`--trainer.{name}` above 0", value, "omit it for the default")


def check_weights_given(config: Namespace) -> None:
    """Raise an `InputError` if no option names trained weights: random weights would be evaluated."""
    init_from = "init_from" if "init_from" in config else "model.init_from"
    if config.ckpt_path is None and config[init_from] is None:
        root = Path(config.trainer.default_root_dir or ".") / LOGS
        newest = max(
            root.glob(f"*/version_*/{CHECKPOINTS}/{LAST}"), key=lambda path: path.stat().st_mtime_ns, default=None
        )
        example = shlex.quote(str(newest or f"{LOGS}/NAME/version_0/{CHECKPOINTS}/{LAST}"))
        hint = f"add `--ckpt_path {example}`, or weights with `--{init_from}`"
        raise expected("a trained network", "no `--ckpt_path`", hint)


def prune_and_score(trainer: Trainer, model: LightningModule, data: LightningDataModule) -> None:
    """Prune without training; then evaluate on the validation images, log the sparsity, and write a checkpoint."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, Pruning):
            callback.prune(model)
    trainer.validate(model, datamodule=data, verbose=False)
    for callback in callbacks:
        if isinstance(callback, RunSummary) and callback.logs_hyperparameters:
            callback.log_hyperparameters(trainer)
        if isinstance(callback, SparsityMonitor):
            metrics = callback.measure(trainer, model)
            for logger in trainer.loggers:
                logger.log_metrics(metrics | {"epoch": 0}, 0)
                logger.save()
    trainer.save_checkpoint(Path(trainer.log_dir or ".") / CHECKPOINTS / LAST)


def _test_command(argv: Sequence[str], settings: Settings) -> str | None:
    """Return the command that tests a checkpoint, without `--ckpt_path`; None if a configuration names the classes."""
    custom = [f"--{group}" for group in ("model", "data") if "class_path" in settings[group]]
    options = {option: value for option, value in split_options(argv) if option.startswith(("--model", "--data"))}
    if any(option not in options for option in custom):
        return None
    kept = {option: value for option, value in options.items() if option.split(".")[0] in custom}
    return shlex.join(["lit-prune", "test", *(f"{option}={value}" for option, value in kept.items())])


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]
