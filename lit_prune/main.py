"""Which command goes where. Nothing heavy is imported before a command is known."""

import difflib
import sys
from collections.abc import Sequence
from importlib import import_module

from lit_prune.cli.failures import print_error
from lit_prune.errors import InputError, expected
from lit_prune.version import __version__

__all__ = ["main"]

# longer than any path that a system takes
_LONGEST = 4096

# command -> (module of this package with `main(argv)`, one line of help)
COMMANDS = {
    "fit": ("training.cli", "train, with freezing, pruning and fine-tuning as callbacks"),
    "validate": ("training.cli", "score a checkpoint on the validation images"),
    "test": ("training.cli", "score a checkpoint on the test images"),
    "predict": ("training.cli", "name the class of your own images, or of the test images"),
    "inspect": (
        "trained.inspect.command",
        "show a trained network layer by layer: sparsity, magnitudes, FLOPs",
    ),
    "prune": ("trained.prune", "zero the smallest weights of a trained network, without training"),
    "sensitivity": ("trained.sensitivity.command", "prune each layer alone, and measure what it costs"),
    "shrink": ("trained.shrink", "remove whole channels: a smaller dense network"),
    "export": (
        "trained.export.command",
        "write ONNX, torch.export, safetensors or a plain state dict, and check it",
    ),
    "cost": ("trained.cost.command", "measure FLOPs, bytes and latency, and what really makes it faster"),
    "study": ("study.run.command", "run the experiments of a plan, and report them"),
    "report": ("study.report.command", "turn a study's folder into tables, figures and verdicts"),
}

USAGE = "\n".join(
    [
        "usage: lit-prune COMMAND [options]",
        "",
        "Freeze, prune, fine-tune and unfreeze networks with PyTorch Lightning.",
        "",
        "commands:",
        *(f"  {name:12s} {help_}" for name, (_, help_) in COMMANDS.items()),
        "",
        "options:",
        "  -h, --help   show this text; `lit-prune COMMAND --help` lists the options of a command",
        "  --version    print the version",
        "",
        "start here:  lit-prune study --preset quick",
    ]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        args: The command and its options; `sys.argv[1:]` when None.

    Returns:
        The exit status: 0, 1 for a run that could not be finished, 2 for input that cannot be used. A wrong
        input prints one sentence on stderr, and its traceback too if `LIT_PRUNE_TRACEBACK` is set.
    """
    argv = list(sys.argv[1:] if args is None else args)
    try:
        for word in argv:
            _check(word)
        return _dispatch(argv)
    except InputError as error:
        return print_error(error, 2)


def _check(word: str) -> None:
    """Refuse what no command could use, in one place."""
    # ends of lines and the like are shown, not printed
    start = word[:40].encode("unicode_escape").decode() + ("..." if len(word) > 40 else "")
    if len(word) > _LONGEST:
        hint = "put long settings into a file and give it to `--config`"
        raise expected(f"words of at most {_LONGEST} characters", f"`{start}`, which has {len(word)}", hint)
    if "\0" in word:
        raise expected("words without a NUL character", f"`{start}`", "take it out")
    if any("\ud800" <= character <= "\udfff" for character in word):  # how Python hands on bytes that are no text
        raise expected("words in UTF-8", f"`{start}`", "rename the file, if it is one")


def _dispatch(argv: list[str]) -> int:
    if not argv:
        print(USAGE)
        raise expected(f"a command ({', '.join(COMMANDS)})", "none", "`lit-prune --help` says what each does")
    if argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"lit-prune {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
        hint = f"did you mean `lit-prune {near[0]}`" if near else "`lit-prune --help` says what each does"
        raise expected(f"a command ({', '.join(COMMANDS)})", f"`{argv[0]}`", hint)
    module, _ = COMMANDS[argv[0]]
    status: int = import_module(f"lit_prune.{module}").main(argv)
    return status
