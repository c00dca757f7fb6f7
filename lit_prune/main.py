"""The entry point of `lit-prune`: runs a command, without importing the modules of the other commands."""

import sys
from collections.abc import Sequence
from importlib import import_module

from lit_prune.cli.failures import print_error
from lit_prune.cli.imports import ending_on_interrupt, importing
from lit_prune.cli.short_help import short_help
from lit_prune.errors import InputError, closest_hint, expected
from lit_prune.version import __version__

_LONGEST = 4096  # characters of an argument; equals the length limit of paths on Linux

# command -> (module with `main(argv)`, one line of help)
COMMANDS = {
    "fit": ("training.cli", "train a network; callbacks can freeze and prune it"),
    "validate": ("training.cli", "evaluate a trained network on the validation images"),
    "test": ("training.cli", "evaluate a trained network on the test images"),
    "predict": ("training.cli", "classify your image files, or the test images"),
    "inspect": ("trained.inspect.command", "show sparsity, weight magnitudes and FLOPs of each layer"),
    "prune": ("trained.prune", "set the least important weights of a trained network to zero, without training"),
    "sensitivity": ("trained.sensitivity.command", "prune each layer alone, and measure the accuracy of the network"),
    "shrink": ("trained.shrink", "remove whole channels of a trained network, which makes it smaller and faster"),
    "export": (
        "trained.export.command",
        "convert a network to ONNX, torch.export, safetensors or another format, and verify the file",
    ),
    "cost": ("trained.cost.command", "measure the FLOPs, file size and latency of networks"),
    "study": ("study.run.command", "run the experiments of a plan (a YAML file), and write a report"),
    "report": (
        "study.report.command",
        "write the report of a study again: tables, figures, and whether each claim of its plan holds",
    ),
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
        "  -h, --help   show this text; `lit-prune COMMAND --help` shows the options of a command and examples",
        "  --version    show the version",
        "",
        "To begin, try `lit-prune study --preset quick`.",
    ]
)


def main(args: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        args: The command and its options (default: `sys.argv[1:]`).

    Returns:
        The exit status: 0 for success, 1 for a command that could not finish, 2 for input that cannot be used, or 128
        plus the number of the signal that stopped the command. Errors are printed as one line on stderr, unless the
        environment variable `LIT_PRUNE_TRACEBACK` is set: then they raise exceptions, as bugs always do.
    """
    if args is None:
        with ending_on_interrupt():
            return main(sys.argv[1:])
    argv = list(args)
    try:
        for argument in argv:
            _check(argument)
        status = _dispatch(argv)
        sys.stdout.flush()
        return status
    except (InputError, KeyboardInterrupt, BrokenPipeError) as error:
        return print_error(error)


def _check(argument: str) -> None:
    """Raise an `InputError` for an argument that is too long, or has characters that no command can use."""
    start = argument[:40].encode("unicode_escape").decode() + ("..." if len(argument) > 40 else "")
    if len(argument) > _LONGEST:
        hint = "write long values to a YAML file, and pass that file to `--config`"
        raise expected(f"arguments of at most {_LONGEST} characters", f"{len(argument)} (`{start}`)", hint)
    if "\0" in argument:
        raise expected("arguments without NUL characters", f"`{start}`", "remove the NUL character")
    # Python represents bytes that are not UTF-8 by these characters
    if any("\ud800" <= character <= "\udfff" for character in argument):
        raise expected("arguments in UTF-8", f"`{start}`", "if the argument is a path, rename the file")


def _dispatch(argv: list[str]) -> int:
    hint = "`lit-prune --help` describes each command"
    if not argv:
        print(USAGE)
        raise expected(f"a command ({', '.join(COMMANDS)})", "none", hint)
    if argv[0] in ("-h", "--help"):
        print(USAGE)
        return 0
    if argv[0] == "--version":
        print(f"lit-prune {__version__}")
        return 0
    if argv[0] not in COMMANDS:
        hint = closest_hint(argv[0], COMMANDS, hint, "lit-prune ")
        raise expected(f"a command ({', '.join(COMMANDS)})", f"`{argv[0]}`", hint)
    if {"-h", "--help"} & set(argv):
        print(short_help(argv[0], COMMANDS[argv[0]][1]))
        return 0
    argv = ["--help" if word == "--help=all" else word for word in argv]
    # importing Lightning takes seconds
    if COMMANDS[argv[0]][0] == "training.cli" and sys.stderr.isatty():
        print(f"lit-prune {argv[0]}: loading PyTorch Lightning", file=sys.stderr)
    with importing():
        module = import_module(f"lit_prune.{COMMANDS[argv[0]][0]}")
    status: int = module.main(argv)
    return status
