"""`lit-prune fit`, `validate`, `test` and `predict`: a LightningCLI over our model and our data."""

import os
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from jsonargparse import Namespace
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_only

import lit_prune.callbacks  # a callback's short name works once its class exists
from lit_prune.callbacks import Pruning, SparsityMonitor
from lit_prune.cli.configs import find_config
from lit_prune.cli.failures import describe_failure, print_error
from lit_prune.cli.parser import CommandParser, ConfigOption, one_sentence_errors
from lit_prune.cli.quiet import quiet
from lit_prune.cli.signals import StopSignals
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError, expected
from lit_prune.files.checkpoint import KEY, Settings, check_fit, read_checkpoint, read_state_dict, stored_settings
from lit_prune.files.trust import check_stored_settings
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.training.callbacks.checkpoint_on_signal import CheckpointOnSignal
from lit_prune.training.callbacks.finite_loss import FiniteLoss
from lit_prune.training.callbacks.predictions import PredictionTable
from lit_prune.training.callbacks.running_metrics import RunningMetrics
from lit_prune.training.callbacks.save_config import SaveRunConfig
from lit_prune.training.callbacks.summary import RunSummary
from lit_prune.training.checkpoint_io import AtomicCheckpointIO
from lit_prune.training.classes import chosen_classes
from lit_prune.training.hyperparameters import hyperparameters
from lit_prune.training.launcher import exit_with_launcher
from lit_prune.training.loggers import make_loggers, rewind_logs
from lit_prune.training.precedence import apply_stored_settings
from lit_prune.training.resuming import NEWEST, find_run, newest_loadable, remove_stale_files, with_own_config
from lit_prune.training.run_folder import (
    LOCK,
    default_loggers,
    is_finished,
    lock_run,
    log_folder,
    mark_finished,
    remove_unused,
)

__all__ = ["TrainingCLI", "main"]

_MOST_THREADS = 1024
_POSITIVE = ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches")

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 30,
    # the summary logs hyper-parameters once, with the metrics they led to
    "enable_autolog_hparams": False,
    # our metrics are logged once an epoch; this is for those of the user's callbacks, and spares short runs a warning
    "log_every_n_steps": 1,
}


class _Parser(CommandParser, LightningArgumentParser):
    """A parser of Lightning's whose errors are one sentence."""


class TrainingCLI(LightningCLI):
    """A LightningCLI over our model and data, or over those that the words choose; no typed word is ignored.

    Args:
        argv: The command and its options.
        folder: The run's folder; None makes a new one. A run that is resumed from a checkpoint in it goes on there:
            what was logged after that checkpoint is forgotten.
        training: False keeps `fit` from training: the pruning callbacks prune at once, the model is scored on the
            validation images, and `checkpoints/last.ckpt` is written.
        stopping: What SIGTERM and SIGINT are told to; None leaves them to others.

    Raises:
        InputError: If the input cannot be used.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path | None = None,
        training: bool = True,
        stopping: StopSignals | None = None,
    ) -> None:
        self._words = with_own_config(argv)
        # Lightning would make the parsers of all four commands, at every start
        mine = {name: skipped for name, skipped in self.subcommands().items() if name == self._words[0]}
        self.subcommands = lambda: mine  # type: ignore[method-assign]
        self._folder = folder
        self._stopping = stopping
        self._held = ExitStack()
        self._training = training
        self._own_model, self._own_data = chosen_classes(self._words)
        self._checkpoint: dict[str, Any] | None = None
        self._origin: Settings = {}
        self._folders: list[Path] = []
        self._run_folder: Path | None = None
        try:
            super().__init__(
                LightningModule if self._own_model else LitResNet18,
                LightningDataModule if self._own_data else CIFAR10DataModule,
                subclass_mode_model=self._own_model,
                subclass_mode_data=self._own_data,
                save_config_callback=SaveRunConfig,
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=0,
                parser_kwargs={"prog": "lit-prune"},
                # the optimizer is an argument of the model; a second place for it would be ignored in silence
                auto_configure_optimizers=False,
            )
        except Exception:
            for folder in self._folders:
                remove_unused(folder)
            raise
        finally:
            self._held.close()

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose `--config` knows the configurations that ship."""
        parser = _Parser(default_env=True, env_prefix="LIT_PRUNE", **kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=ConfigOption,
            help="A YAML file, or a configuration that ships (quick, original).",
        )
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the run's name."""
        parser.add_argument(
            "--name",
            type=str | None,
            default=None,
            help="Folder of the run below lightning_logs (default: the config's name).",
        )

        parser.add_argument(
            "--threads",
            type=int | None,
            default=None,
            help="CPU threads (default: as torch chooses); sums depend on their number in the last bits.",
        )
        if self._own_model:
            parser.add_argument(
                "--init_from",
                type=str | None,
                default=None,
                help="Checkpoint or state dict whose weights training starts from; optimizer and epochs begin anew.",
            )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Add what only a training knows."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--resume",
                type=str | None,
                nargs="?",
                const=NEWEST,
                default=None,
                help="Go on with the run in a folder (lightning_logs/NAME/version_N), as its config.yaml says; without "
                "one, with the newest run of this name, or begin the first.",
            )
            parser.add_argument(
                "--on_nan",
                type=Literal["stop", "continue"],
                default="stop",
                help="What to do when the loss is NaN or infinite.",
            )
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words that were given, not what else is on this process's command line."""
        variable = f"LIT_PRUNE_{self._words[0].upper()}__CONFIG"
        if variable in os.environ:  # the parser takes paths there; a name works here as it does for --config
            os.environ[variable] = find_config(os.environ[variable])
        with one_sentence_errors(self._words):
            self.config = parser.parse_args(self._words)
        for group in ("model", "data", "trainer"):
            value = self.config[self.config.subcommand].get(group)
            if not isinstance(value, Namespace):
                found = "null" if value is None else f"`{value}`"
                raise expected(f"`{group}` to hold options by name", found, f"write `{group}: {{name: value}}`")

    def _parse_ckpt_path(self) -> None:
        """Take the settings of the checkpoint; LightningCLI's own would drop what was typed."""
        command = self.config.subcommand
        named = self.config[command].name or self._default_name(command)
        if self.config[command].get("resume") is not None:
            self._resume(named)
        path = self.config[command].get("ckpt_path")
        if path is not None:
            self._checkpoint = self._checkpoint or read_checkpoint(path)
            self._origin = stored_settings(self._checkpoint, {"model": LitResNet18, "data": CIFAR10DataModule}, path)
            typed = _settings(self.parser.parse_args(self._words, defaults=False)[command])
            check_stored_settings(self._origin, typed, path)
            chosen = apply_stored_settings(self._origin, typed, command, path)
            with one_sentence_errors(self._words):
                self.config = self.parser.parse_object({command: chosen | chosen.pop("run", {})}, self.config)
        if self.config[command].name is None:
            self.config[command].name = named

    def _resume(self, name: str) -> None:
        """Choose the run's folder and the checkpoint that it goes on from, if there is such a run."""
        config = self.config["fit"]
        if any(word.split("=")[0] == "--ckpt_path" for word in self._words):
            raise expected("one of `--resume` and `--ckpt_path`", "both", "`--resume` finds the checkpoint itself")
        if config.trainer.logger is not None or config.trainer.fast_dev_run:
            hint = "leave out `--trainer.logger` and `--trainer.fast_dev_run`"
            raise expected("a run with the loggers of every run beside `--resume`", "others or none", hint)
        root = Path(config.trainer.default_root_dir or ".")
        folder = find_run(log_folder(root, name)) if config.resume == NEWEST else Path(config.resume)
        if folder is None:
            return
        self._folder = folder
        self._held.enter_context(lock_run(folder))
        resumed = newest_loadable(folder)
        if resumed is not None:
            if is_finished(folder, resumed.content, config.trainer.max_epochs):
                print(f"The run in {folder} has come to its end; more epochs with `--trainer.max_epochs`.")
                raise SystemExit(0)
            config.ckpt_path = str(resumed.path)
            self._checkpoint = resumed.content

    def _default_name(self, command: str) -> str:
        if command != "fit":
            return command
        configs = [Path(str(config)) for config in self.config[command].get("config") or []]
        return "-".join(config.stem for config in configs) or "resnet18"

    def _set_seed(self) -> None:
        try:
            super()._set_seed()
        except ValueError as error:
            seed = self._get(self.config, "seed_everything")
            raise expected("`--seed_everything` in [0, 4294967295]", seed, "give a number in this range") from error

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what a class rejects becomes one sentence."""
        if (threads := self._get(self.config, "threads")) is not None:
            if threads not in range(1, _MOST_THREADS + 1):
                what = f"in [1, {_MOST_THREADS}]" if threads > 0 else "to be a whole number from 1 on"
                raise expected(f"`--threads` {what}", threads, "leave it out to use all cores")
            torch.set_num_threads(threads)
        for name in _POSITIVE:  # by which Lightning divides
            value = getattr(self._get(self.config, "trainer"), name, None)
            if isinstance(value, int | float) and value <= 0:
                raise expected(f"`--trainer.{name}` above 0", value, "leave it out for the default")
        try:
            super().instantiate_classes()
        except (InputError, MisconfigurationException, OSError):
            raise
        except (ValueError, TypeError, RuntimeError) as error:
            root = _root(error)  # the parser wraps what a class says in all that it tried itself
            if isinstance(root, InputError):
                raise root from error
            found = str(root).rstrip(".")
            if found.startswith("Found more than one stateful callback"):
                found = found.split(". ")[0]  # the rest is for who writes callbacks
            raise expected("settings that the classes accept", found, "`--help` shows what each takes") from error
        if self._checkpoint is None and (path := self._get(self.config, "init_from")) is not None:
            weights = read_state_dict(path)
            check_fit(self.model, weights, path)
            self.model.load_state_dict(weights)
        if self._checkpoint is not None:
            if self.subcommand == "fit" and "optimizer_states" not in self._checkpoint:
                raise expected(
                    "a checkpoint that training can go on from",
                    f"`{self._get(self.config, 'ckpt_path')}`, which holds no optimizer state",
                    "to start anew from its weights, give `--model.init_from`",
                )
            check_fit(self.model, self._checkpoint["state_dict"], self._get(self.config, "ckpt_path"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the loggers and callbacks of every run, except those that the user replaced."""
        settings = self._get(self.config_init, "trainer")
        given = settings.callbacks
        callbacks = [] if given is None else given if isinstance(given, list) else [given]
        self._refuse_missing(callbacks)
        if settings.logger is None and not settings.fast_dev_run:
            kwargs["logger"] = self._loggers(Path(settings.default_root_dir or "."))
        plugins = settings.plugins if isinstance(settings.plugins, list) else [settings.plugins]
        if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            kwargs["plugins"] = [*(plugin for plugin in plugins if plugin is not None), AtomicCheckpointIO()]
        kwargs["callbacks"] = [*callbacks, *self._own_callbacks(callbacks)]
        self.save_config_kwargs = {"overwrite": not self._goes_on}
        return super().instantiate_trainer(**kwargs)

    def _loggers(self, root: Path) -> list[Any]:
        if self._folder is None:
            loggers = default_loggers(root, self._get(self.config, "name"))
            self._run_folder = Path(loggers[0].log_dir)
            self._folders.append(self._run_folder)
            if self.subcommand == "fit":
                self._held.enter_context(lock_run(self._run_folder))
            return loggers
        self._run_folder = self._folder
        if rank_zero_only.rank == 0:  # type: ignore[attr-defined]  # not before all that was typed has been understood
            stored = self._checkpoint if self._goes_on else None
            remove_stale_files(self._folder, stored, kept=[LOCK, "log.txt"])
            if stored is not None:
                rewind_logs(self._folder, stored.get(KEY, {}).get("logs", {}))
        return make_loggers(self._folder)

    @property
    def _goes_on(self) -> bool:
        """Whether the run goes on in the folder that its checkpoint is in."""
        path = self._get(self.config, "ckpt_path") if self.subcommand == "fit" else None
        return self._folder is not None and path is not None and Path(path).parent.parent == self._folder

    def _run_subcommand(self, subcommand: str) -> None:
        if self._training:
            super()._run_subcommand(subcommand)
        else:
            self._prune_and_score()

    def _prune_and_score(self) -> None:
        """What remains of `fit` without training: pruned weights, their score, and a checkpoint of them."""
        callbacks: list[Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        for callback in callbacks:
            if isinstance(callback, Pruning):
                callback.prune(self.model)
        self.trainer.validate(self.model, datamodule=self.datamodule, verbose=False)
        for callback in callbacks:
            if isinstance(callback, SparsityMonitor):
                metrics = callback.measure(self.trainer, self.model)
                for logger in self.trainer.loggers:
                    logger.log_metrics(metrics | {"epoch": 0}, 0)
                    logger.save()
        self.trainer.save_checkpoint(Path(self.trainer.log_dir or ".") / "checkpoints" / "last.ckpt")

    def _refuse_missing(self, given: list[Callback]) -> None:
        """Refuse to go on without the callbacks that freeze and prune: the run would become another one in silence."""
        if self.subcommand != "fit" or self._checkpoint is None:
            return
        had = self._checkpoint.get(KEY, {}).get("callbacks", [])
        needed = {name for name in had if name in lit_prune.callbacks.__all__ and name != "SparsityMonitor"}
        if missing := sorted(needed - {type(callback).__name__ for callback in given}):
            raise expected(
                f"the callbacks of the run that wrote `{self._get(self.config, 'ckpt_path')}`",
                f"none called {missing[0]}",
                f"add `--trainer.callbacks+={missing[0]}` with its arguments, or resume with the run's `config.yaml`",
            )

    @property
    def best_epoch(self) -> int | None:
        """The epoch of the highest validation accuracy in `fit`, counted from 0; None where there is no such metric."""
        return self._summary.best_epoch

    def after_fit(self) -> None:
        """Sum up, once the progress bar is gone."""
        if self.trainer.is_global_zero:
            text = self._summary.text(self.trainer)
            if self._run_folder is not None:
                mark_finished(self._run_folder, text)
            print(f"\n{text}")

    def _own_callbacks(self, given: list[Callback]) -> list[Callback]:
        if self.subcommand == "predict":
            return [PredictionTable()]
        if self.subcommand != "fit":
            return []
        settings = _settings(self.config["fit"])
        # a resumed run still knows where its first weights came from
        settings["model"] |= {k: v for k, v in self._origin.get("model", {}).items() if k in ("weights", "init_from")}
        if not self._own_model:  # what the weights that it began with have, which are not read again
            settings["model"]["channels"] = self.model.hparams["channels"]
        compared = hyperparameters(settings, self.config["fit"].trainer, self._own_model or self._own_data)
        self._summary = RunSummary(settings, compared, continues=self._goes_on)
        # after validation and at a clean end of the epoch, so that a resumed run starts the next one whole
        keep = partial(ModelCheckpoint, auto_insert_metric_name=False, save_on_train_epoch_end=True)
        # `save_last` would save no epoch that is not the best one; and last comes after best, whose path it keeps
        checkpoints = [keep(filename="last", enable_version_counter=False)]
        if not self._own_model:  # what somebody else's model logs is not known; a callback of theirs can watch it
            best = keep(monitor="val/acc", mode="max", filename="best-epoch={epoch:03d}-val_acc={val/acc:.4f}")
            checkpoints.insert(0, best)
        folder = (self._run_folder or Path(self.config["fit"].trainer.default_root_dir or ".")) / "checkpoints"
        callbacks: list[Callback] = [RunningMetrics(), self._summary]
        if self.config["fit"].on_nan == "stop":
            callbacks.append(FiniteLoss(folder / "last.ckpt"))
        saves = self.config["fit"].trainer.enable_checkpointing is not False
        if self._stopping is not None:
            again = (
                f"`lit-prune fit --resume {self._run_folder}`" if self._run_folder else f"`--ckpt_path` with `{folder}`"
            )
            callbacks.append(CheckpointOnSignal(self._stopping, folder if saves else None, again))
        if not saves:
            return callbacks
        replaced = {callback.state_key for callback in given}
        return [*callbacks, *(callback for callback in checkpoints if callback.state_key not in replaced)]


def main(argv: Sequence[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        argv: The command and its options.

    Returns:
        The exit status: 0, 1 if files could not be written or read on the way, 2 for input that cannot be used.
    """
    exit_with_launcher()
    with quiet(scoring=argv[0] != "fit"), StopSignals() as stopping:
        try:
            TrainingCLI(argv, stopping=stopping)
        except SystemExit as leave:  # --help and --print_config end here
            return int(leave.code or 0)
        except Exception as error:
            if (failure := describe_failure(error)) is None:
                raise
            if failure.status > 128 and stopping.received is None:  # another process of the run was told, and says so
                return failure.status
            return print_error(error, failure.status, failure.sentence)
    return 0


def _root(error: BaseException) -> BaseException:
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return error


def _settings(config: Namespace) -> Settings:
    """What decides a run's numbers, and its name, as plain values by group."""
    groups = {group: config[group].as_dict() for group in ("model", "data") if group in config}
    return groups | {"run": {name: config[name] for name in ("seed_everything", "name") if name in config}}
