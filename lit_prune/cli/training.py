"""`lit-prune fit`, `validate`, `test` and `predict`: a LightningCLI over our model and our data."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback

import lit_prune.callbacks  # noqa: F401  # a callback's short name works once its class exists
from lit_prune.cli.checkpoints import check_seed, stored_settings, take_stored
from lit_prune.cli.complaint import complain
from lit_prune.cli.parser import NamedConfig, OneLineParser
from lit_prune.cli.predictions import PredictionTable
from lit_prune.cli.runs import default_loggers
from lit_prune.cli.summary import RunSummary
from lit_prune.data import CIFAR10DataModule
from lit_prune.errors import InputError, expected
from lit_prune.model import LitResNet18
from lit_prune.weights import check_fit, read_checkpoint

__all__ = ["TrainingCLI", "main"]

# not false, but not for us: our loader indexes whole batches of a memory-mapped array, so workers would slow it
_UNHELPFUL = [".*does not have many workers.*", ".*No negative.*"]

TRAINER_DEFAULTS: dict[str, Any] = {
    "max_epochs": 30,
    # the summary logs hyper-parameters once, with the metrics they led to
    "enable_autolog_hparams": False,
    # our metrics are logged once an epoch; this is for those of the user's callbacks, and spares short runs a warning
    "log_every_n_steps": 1,
}


class _RunConfig(SaveConfigCallback):  # type: ignore[misc]
    """Saves `config.yaml` in the run folder, and nowhere else: without a logger there is no such folder."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if trainer.logger is not None:
            super().setup(trainer, pl_module, stage)


class TrainingCLI(LightningCLI):  # type: ignore[misc]
    """A LightningCLI with fixed classes, one folder a run, and no typed word ignored.

    Args:
        words: The command and its options.

    Raises:
        InputError: If the input cannot be used.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._checkpoint: dict[str, Any] | None = None
        super().__init__(
            LitResNet18,
            CIFAR10DataModule,
            save_config_callback=_RunConfig,
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            parser_kwargs={"prog": "lit-prune", "default_env": True, "env_prefix": "LIT_PRUNE"},
            parser_class=OneLineParser,
            # the optimizer is an argument of the model; a second place for it would be ignored in silence
            auto_configure_optimizers=False,
        )

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser whose `--config` knows the configurations that ship."""
        parser = OneLineParser(**{"default_env": True, "env_prefix": "LIT_PRUNE"} | kwargs)
        parser.add_argument(
            "-c",
            "--config",
            action=NamedConfig,
            help="A YAML file, or a configuration that ships (quick, seed).",
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

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse the words that were given, not what else is on this process's command line."""
        self.config = parser.parse_args(self._words)

    def _parse_ckpt_path(self) -> None:
        """Take the settings of the checkpoint; LightningCLI's own would drop what was typed."""
        command = self.config.subcommand
        path = self.config[command].get("ckpt_path")
        if path is None:
            return
        self._checkpoint = read_checkpoint(path)
        typed = self.parser.parse_args(self._words, defaults=False)[command]
        groups = {group: _leaves(typed.get(group)) for group in ("model", "data")}
        chosen = take_stored(stored_settings(self._checkpoint), groups, command, path)
        self.config = self.parser.parse_object({command: chosen}, self.config)
        if command == "fit":
            seed = check_seed(self._checkpoint, typed.get("seed_everything"), path)
            if seed is not None:
                self.config[command].seed_everything = seed

    def instantiate_classes(self) -> None:
        """Build model, data and trainer; what a class rejects becomes one sentence."""
        try:
            super().instantiate_classes()
        except InputError:
            raise
        except (ValueError, TypeError, MisconfigurationException, RuntimeError) as error:
            raise expected(
                "settings that the classes accept", str(error), "see `--help` for what each setting takes"
            ) from error
        if self._checkpoint is not None:
            check_fit(self.model, self._checkpoint["state_dict"], self._get(self.config, "ckpt_path"))

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the loggers and callbacks of every run, except those that the user replaced."""
        settings = self._get(self.config_init, "trainer")
        if settings.logger is None and not settings.fast_dev_run:
            root = Path(settings.default_root_dir or ".")
            kwargs["logger"] = default_loggers(root, self._run_name())
        given = settings.callbacks
        callbacks = [] if given is None else given if isinstance(given, list) else [given]
        kwargs["callbacks"] = [*callbacks, *self._own_callbacks(callbacks)]
        return super().instantiate_trainer(**kwargs)

    def _own_callbacks(self, given: list[Callback]) -> list[Callback]:
        own: list[Callback] = []
        settings = self._get(self.config_init, "trainer")
        if self.subcommand == "predict":
            own.append(PredictionTable())
        if self.subcommand == "fit":
            own.append(RunSummary(self._hyperparameters()))
            checkpoint = ModelCheckpoint(
                monitor="val/acc",
                mode="max",
                filename="best-epoch={epoch:03d}-val_acc={val/acc:.4f}",
                auto_insert_metric_name=False,
                save_last=True,
                # after validation and at a clean end of the epoch, so that a resumed run starts the next one whole
                save_on_train_epoch_end=True,
            )
            taken = {callback.state_key for callback in given}
            if settings.enable_checkpointing is not False and checkpoint.state_key not in taken:
                own.append(checkpoint)
        return own

    def _run_name(self) -> str:
        name: str | None = self._get(self.config, "name")
        if name is not None:
            if not name or Path(name).is_absolute() or ".." in Path(name).parts:
                raise expected("`--name` to be a folder below lightning_logs", f"`{name}`", "give a plain name")
            return name
        if self.subcommand != "fit":
            return str(self.subcommand)
        configs = self._get(self.config, "config") or []
        # a run repeated from its own config.yaml is not called "config"
        stems = [Path(str(config)).stem for config in configs]
        return "-".join(stem for stem in stems if stem != "config") or "resnet18"

    def _hyperparameters(self) -> dict[str, bool | int | float | str]:
        """What the HParams tab compares: the same names, each of one type, in every run."""
        config = self.config[self.subcommand]
        optimizer, scheduler = config.model.optimizer, config.model.lr_scheduler
        callbacks = config.trainer.callbacks or []
        callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
        return {
            "optimizer": _class_name(optimizer),
            "lr": float(optimizer.init_args.get("lr", float("nan"))),
            "lr_scheduler": _class_name(scheduler),
            "output": config.model.output,
            "batch_norm": config.model.batch_norm,
            "stem": config.model.stem,
            "weights": str(config.model.init_from or config.model.weights or "random"),
            "source": config.data.source,
            "augment": config.data.augment,
            "batch_size": config.data.batch_size,
            "limit_train": config.data.limit_train or 0,
            "max_epochs": config.trainer.max_epochs or 0,
            "precision": str(config.trainer.precision or "32-true"),
            "callbacks": ", ".join(_class_name(callback) for callback in callbacks) or "none",
            "seed": int(config.seed_everything),
        }


def main(words: Sequence[str]) -> int:
    """Run `fit`, `validate`, `test` or `predict`.

    Args:
        words: The command and its options.

    Returns:
        The exit status.

    Raises:
        InputError: If the input cannot be used.
    """
    with warnings.catch_warnings():
        for message in _UNHELPFUL:
            warnings.filterwarnings("ignore", message)
        try:
            TrainingCLI(words)
        except (MisconfigurationException, OSError) as error:
            return complain(error, 1)
    return 0


def _leaves(group: Namespace | None) -> dict[str, Any]:
    """What is in a group by dotted name."""
    return {} if group is None else dict(vars(group.as_flat()))


def _class_name(config: Any) -> str:
    if config is None:
        return "none"
    if isinstance(config, Mapping | Namespace) and "class_path" in config:
        return str(config["class_path"]).rsplit(".", 1)[-1]
    return type(config).__name__
