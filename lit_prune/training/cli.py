"""`lit-prune fit`, `validate`, `test` and `predict`: a LightningCLI for our model and data, or for custom classes."""

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial, wraps
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from lit_prune.cli.configs import find_config
from lit_prune.cli.failures import print_error
from lit_prune.cli.parser import one_sentence_errors
from lit_prune.cli.quiet import quiet
from lit_prune.cli.signals import StopSignals
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError, UnfinishedError, expected, root_cause
from lit_prune.files.checkpoint import read_checkpoint, stored_settings
from lit_prune.files.trust import check_stored_settings
from lit_prune.models.resnet18 import LitResNet18
from lit_prune.training.callbacks import SaveRunConfig
from lit_prune.training.custom_classes import find_custom_classes
from lit_prune.training.launcher import exit_with_launcher
from lit_prune.training.loggers import add_log_folder, name_loggers
from lit_prune.training.options import add_fit_options, add_options, make_parser
from lit_prune.training.packages import adapt_data, find_package, import_from, package_of
from lit_prune.training.precedence import collect_settings, select_stored_settings
from lit_prune.training.resuming import Checkpoint, insert_run_config
from lit_prune.training.run import Run, check_options, check_weights_given, prune_and_score

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 30,
    # False, because `RunSummary` logs the hyper-parameters once, together with the final metrics
    "enable_autolog_hparams": False,
    # write the metrics that custom models and callbacks log in a step; with the default of 50, short epochs write none
    "log_every_n_steps": 1,
}

# attributes that `LightningCLI.setup_parser` sets
_PARSER_ATTRIBUTES = ("parser", "_subcommand_parsers", "_subcommand_method_arguments")
# these attributes by command and base classes
Parsers = dict[tuple[object, ...], dict[str, Any]]


class TrainingCLI(LightningCLI):
    """Parses the options of one command, builds model, data and Trainer from them, and runs the command.

    Options on the command line override options in the YAML files of `--config`, and these override environment
    variables. With `--ckpt_path`, the settings stored in the checkpoint replace the default values of options; the
    module `precedence` lists the options that may differ from their stored settings.

    Args:
        argv: The command and its options.
        folder: Run folder; None creates a new one. If `--ckpt_path` is a checkpoint of this run folder, the run resumes
            in the folder, and log entries written after the checkpoint are removed.
        training: False makes `fit` prune without training: the pruning callbacks prune at once, the model is evaluated
            on the validation images, and `checkpoints/last.ckpt` is written.
        stopping: Handler of SIGTERM and SIGINT; if None, the run does not handle these signals.
        logs_hyperparameters: Whether `fit` logs the hyper-parameters for TensorBoard's HParams tab when it ends.
        parsers: Parsers of earlier commands, to reuse because building one is slow; a new one is added. Do not reuse
            them after a command has failed: it leaves its parser in an undefined state.

    Raises:
        InputError: If an option, a configuration or a file cannot be used.
    """

    def __init__(
        self,
        argv: Sequence[str],
        folder: Path | None = None,
        training: bool = True,
        stopping: StopSignals | None = None,
        logs_hyperparameters: bool = True,
        parsers: Parsers | None = None,
    ) -> None:
        self._parsers = {} if parsers is None else parsers
        self._argv = add_log_folder(insert_run_config(argv))
        # build only the parser of this command; Lightning would build the parsers of all four commands
        own = {name: skipped for name, skipped in self.subcommands().items() if name == self._argv[0]}
        self.subcommands = lambda: own  # type: ignore[method-assign]
        self._training = training
        self._logs_hyperparameters = logs_hyperparameters
        model, data = find_custom_classes(self._argv)
        self._custom_model = model is not None
        self._package = find_package(model)
        with ExitStack() as resources:
            self._run = Run(self._argv, self._package, folder, stopping, resources)
            super().__init__(
                LitResNet18 if model is None else import_from(self._package, "LightningModule"),
                CIFAR10DataModule if data is None else import_from(find_package(data), "LightningDataModule"),
                subclass_mode_model=model is not None,
                subclass_mode_data=data is not None,
                save_config_callback=SaveRunConfig,
                trainer_class=import_from(self._package, "Trainer"),
                trainer_defaults=TRAINER_DEFAULTS,
                seed_everything_default=0,
                parser_kwargs={"prog": "lit-prune"},
                # the optimizer is an argument of the model; Lightning's `--optimizer` would be ignored silently
                auto_configure_optimizers=False,
            )

    def setup_parser(self, *args: Any) -> None:
        """Build the parser, or reuse that of an earlier run of the same command with the same classes."""
        key = (self._argv[0], self._model_class, self._datamodule_class, self._custom_model, self.subclass_mode_data)
        if key not in self._parsers:
            super().setup_parser(*args)
            self._parsers[key] = {name: vars(self)[name] for name in _PARSER_ATTRIBUTES}
        vars(self).update(self._parsers[key])

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Return a parser that reports each error in one sentence."""
        return make_parser(**kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options that `fit`, `validate`, `test` and `predict` share."""
        add_options(parser, self._custom_model)

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            add_fit_options(parser)
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the `argv` that was passed to `__init__`, instead of `sys.argv`."""
        variable = f"LIT_PRUNE_{self._argv[0].upper()}__CONFIG"
        if variable in os.environ:  # like `--config`, accept the name of a shipped configuration
            os.environ[variable] = find_config(os.environ[variable])
        with one_sentence_errors(self._argv):
            self.config = parser.parse_args(self._argv)
        for group in ("model", "data", "trainer"):
            value = self.config[self.config.subcommand].get(group)
            if not isinstance(value, Namespace):
                found = "null" if value is None else f"`{value}`"
                raise expected(f"`{group}` to be a mapping of options", found, f"write `{group}: {{name: value}}`")

    def _parse_ckpt_path(self) -> None:
        """Apply the settings stored in the checkpoint; in LightningCLI, they would override the user's options."""
        command = self.config.subcommand
        config = self.config[command]
        name = config.name or _default_name(command, config)
        if config.get("resume") is not None:
            self._run.resume(config, name, self._argv)
        if (path := config.get("ckpt_path")) is not None:
            if self._run.checkpoint is None:
                self._run.checkpoint = Checkpoint(Path(path), read_checkpoint(path))
            classes = {"model": LitResNet18, "data": CIFAR10DataModule}
            stored = self._run.stored = stored_settings(self._run.checkpoint.content, classes)
            given = collect_settings(self.parser.parse_args(self._argv, defaults=False)[command])
            check_stored_settings(stored, given, path)
            chosen = select_stored_settings(stored, given, command, path, config.get("resume") is not None)
            with one_sentence_errors(self._argv):
                self.config = self.parser.parse_object({command: chosen | chosen.pop("run", {})}, self.config)
        if self.config[command].name is None:
            self.config[command].name = name
        name_loggers(self.config[command].trainer.logger, self.config[command].name)
        check_options(self.config[command])
        if command != "fit":
            check_weights_given(self.config[command])

    def _add_instantiators(self) -> None:
        # `save_hyperparameters` finds the options only if an instantiator of its own Lightning package built the object
        classes: dict[str, Any] = {"model": self._model_class, "data": self._datamodule_class}
        instantiators = [
            (_as_function(import_from(package_of(kind), "cli._InstantiatorFn")(self, group)), kind, True)
            for group, kind in classes.items()
        ]
        self.parser.instantiate_classes = partial(self.parser.instantiate, instantiators=instantiators)

    def instantiate_classes(self) -> None:
        """Build model, data and Trainer; if a class rejects its arguments, raise a one-sentence `InputError`."""
        config = self.config[self.subcommand]
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        if config.matmul_precision is not None:
            torch.set_float32_matmul_precision(config.matmul_precision)
        try:
            super().instantiate_classes()
        except (InputError, MisconfigurationException, OSError):
            raise
        except (ValueError, TypeError, RuntimeError, ImportError) as error:
            root = root_cause(error)
            if isinstance(root, InputError | MisconfigurationException | ImportError):
                raise root from error
            found = str(root).rstrip(".")
            if found.startswith("Found more than one stateful callback"):
                found = found.split(". ")[0]  # Lightning's other sentences address authors of callbacks
            sentence = f"The model, the data or the Trainer cannot be built: {found}."
            raise InputError(f"{sentence} `--help=all` lists all options.") from error
        self.datamodule = adapt_data(self.datamodule, self._package)
        self._run.load_weights(self.model, config.get("init_from"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer, with the loggers and callbacks that every run has."""
        config, trainer = self.config[self.subcommand], self._get(self.config_init, "trainer")
        kwargs |= self._run.trainer_arguments(config, trainer, self.model)
        if self.subcommand == "fit":
            self._run.summary.logs_hyperparameters = self._logs_hyperparameters
        self.save_config_kwargs = {"overwrite": not self._run.continues, "folder": self._run.folder}
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        if self._training:
            try:
                super()._run_subcommand(subcommand)
            except BrokenPipeError:  # as in `lit-prune fit | head`
                raise
            except OSError as error:
                raise self._run.explain_stop(error) from error
        else:
            prune_and_score(self.trainer, self.model, self.datamodule)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        # `Trainer.test` and `Trainer.validate` would print 16 digits
        self._verbose = kwargs.get("verbose", False)
        return kwargs | ({"verbose": False} if "verbose" in kwargs else {})

    def after_test(self) -> None:
        """Print the metrics, unless `--verbose false` is given."""
        if self._verbose:
            self._run.print_scores(self.trainer)

    after_validate = after_test

    def after_fit(self) -> None:
        """Print the summary of the training, and write it to the run folder."""
        self._run.finish(self.trainer)

    @property
    def hyperparameters(self) -> dict[str, bool | int | float | str]:
        """Hyper-parameters of a run of `fit`, by name, as in the HParams tab."""
        return self._run.summary.hyperparameters

    @property
    def best_epoch(self) -> int | None:
        """Epoch of `fit` with the highest `val/acc`, counted from 0; None if `val/acc` was not logged."""
        return self._run.summary.best_epoch


def _as_function(instantiator: Any) -> Callable[..., Any]:
    """Wrap an instantiator in a function: models keep it, and copying a model does not copy functions."""

    @wraps(instantiator.__call__)
    def instantiate(*args: Any, **kwargs: Any) -> Any:
        return instantiator(*args, **kwargs)

    return instantiate


def main(argv: Sequence[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`, and return its exit status.

    The status is 0 for success, 1 if the command could not finish (for example on a full disk, or because the loss
    became NaN), 2 for input that cannot be used, or 128 plus the number of the signal that stopped the command.
    """
    exit_with_launcher()
    with quiet(scoring=argv[0] != "fit"), StopSignals() as stopping:
        try:
            TrainingCLI(argv, stopping=stopping)
        except SystemExit as leave:  # after `--help` or `--print_config`, or if the run to resume is finished
            return int(leave.code or 0)
        except Exception as error:
            if isinstance(error, UnfinishedError) and error.status > 128 and stopping.received is None:
                return error.status  # another process of the run received the signal, and reports it
            return print_error(stopping.blame(error))
    return 0


def _default_name(command: str, config: Namespace) -> str:
    if command != "fit":
        return command
    if config.get("config"):
        return "-".join(Path(str(path)).stem for path in config.config)
    # without `--model`, there is no class path
    return str(config.get("model.class_path", "resnet18")).rpartition(".")[2]
