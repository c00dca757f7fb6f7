"""The options of `fit`, `validate`, `test` and `predict` besides those of model, data and Trainer."""

from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser

from lit_prune.cli.parser import CommandParser, ConfigOption
from lit_prune.training.resuming import NEWEST


class _Parser(CommandParser, LightningArgumentParser):
    """A `LightningArgumentParser` whose errors are one sentence."""


def make_parser(**kwargs: Any) -> LightningArgumentParser:
    """Make a parser that reads the environment, and whose `--config` accepts the names of shipped configurations."""
    parser = _Parser(default_env=True, env_prefix="LIT_PRUNE", **kwargs)
    text = "A YAML file, or the name of a shipped configuration (quick, original)."
    parser.add_argument("-c", "--config", action=ConfigOption, help=text)
    return parser


def add_options(parser: LightningArgumentParser, custom_model: bool) -> None:
    """Add the options of all four commands; for our own model, `--model.init_from` replaces `--init_from`."""
    text = "Name of the run, a folder below lightning_logs (default: the name of the configuration)."
    parser.add_argument("--name", type=str | None, default=None, help=text)
    text = "Number of CPU threads (default: chosen by torch). The last bits of sums depend on it."
    parser.add_argument("--threads", type=int | None, default=None, help=text)
    if custom_model:
        text = "Checkpoint or state dict with initial weights. Optimizer and epochs start from the beginning."
        parser.add_argument("--init_from", type=str | None, default=None, help=text)


def add_fit_options(parser: LightningArgumentParser) -> None:
    """Add the options of `fit` alone."""
    text = (
        "Resume the run in this folder (lightning_logs/NAME/version_N) with its own config.yaml. Without a folder, "
        "resume the newest run of this name, or start the first one."
    )
    parser.add_argument("--resume", type=str | None, nargs="?", const=NEWEST, default=None, help=text)
    text = "Whether to stop or continue when the loss becomes NaN or infinite."
    parser.add_argument("--on_nan", type=Literal["stop", "continue"], default="stop", help=text)
