"""The options of `fit`, `validate`, `test` and `predict`, except those of model, data and Trainer."""

from typing import Any, Literal

from lightning.pytorch.cli import LightningArgumentParser

from lit_prune.cli.parser import CommandParser, ConfigOption
from lit_prune.training.packages import import_from, package_of
from lit_prune.training.resuming import NEWEST

Mode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class _Parser(CommandParser, LightningArgumentParser):
    """A `LightningArgumentParser` for classes of both Lightning packages that reports each error in one sentence."""

    def add_lightning_class_args(self, lightning_class: Any, *args: Any, **kwargs: Any) -> list[str]:
        parser = import_from(package_of(lightning_class), "cli.LightningArgumentParser")
        added: list[str] = parser.add_lightning_class_args(self, lightning_class, *args, **kwargs)
        return added


def make_parser(**kwargs: Any) -> LightningArgumentParser:
    """Return a parser that also reads environment variables and the YAML files of `--config`."""
    parser = _Parser(default_env=True, env_prefix="LIT_PRUNE", **kwargs)
    text = "YAML file with options, or a configuration that ships with lit-prune: quick or original."
    parser.add_argument("-c", "--config", action=ConfigOption, help=text)
    return parser


def add_options(parser: LightningArgumentParser, custom_model: bool) -> None:
    """Add the options that all four commands share.

    Only a custom model gets `--init_from`, since `LitResNet18` has the option `--model.init_from`.
    """
    text = (
        "Name of the run, a folder below lightning_logs (default: for fit, the name of the configuration or, without "
        "one, of the class in --model, or resnet18 without --model; for other commands, the name of the command)."
    )
    parser.add_argument("--name", type=str | None, default=None, help=text)
    text = "Number of CPU threads (default: torch's choice). A different number may change rounding errors."
    parser.add_argument("--threads", type=int | None, default=None, help=text)
    text = (
        "Precision of float32 matrix products, as in torch.set_float32_matmul_precision (default: torch's, highest). "
        "On a GPU, high computes them in TF32."
    )
    parser.add_argument("--matmul_precision", type=Literal["highest", "high", "medium"] | None, default=None, help=text)
    if custom_model:
        text = "Checkpoint or state dict with initial weights. Only its weights are loaded; training starts at epoch 0."
        parser.add_argument("--init_from", type=str | None, default=None, help=text)


def add_fit_options(parser: LightningArgumentParser) -> None:
    """Add the options that only `fit` has."""
    text = (
        "Resume the run in this folder (lightning_logs/NAME/version_N) with the options in its config.yaml. Without a "
        "folder, resume the newest run with the name in --name, or start a new run if there is none."
    )
    parser.add_argument("--resume", type=str | None, nargs="?", const=NEWEST, default=None, help=text)
    text = "What to do when the loss becomes NaN or infinite: stop, or continue training."
    parser.add_argument("--on_nan", type=Literal["stop", "continue"], default="stop", help=text)
    text = (
        "Compile the network for training with torch.compile; on a GPU, with CUDA graphs if other options allow it. "
        "A mode of torch.compile, such as default or max-autotune, replaces that choice."
    )
    parser.add_argument("--compile", type=bool | Mode, nargs="?", const=True, default=False, help=text)
