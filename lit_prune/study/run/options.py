"""The options of `lit-prune study`."""

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import Namespace

from lit_prune.cli.parser import CommandParser, check_path, one_sentence_errors
from lit_prune.errors import InputError, check_integer, closest_hint, expected, shorten
from lit_prune.files.yaml import load_yaml_text
from lit_prune.study.plan.loading import shipped_plans

_GROUPS = ("--data.", "--model.", "--trainer.")
# internal option that collects the options in `_GROUPS`; users cannot give it: `lit-prune` rejects the character NUL
_SETTING = "--\0"
# upper limits of options, above what any machine can use; torch aborts if it cannot start all threads
_LARGEST = {"jobs": 10_000, "threads": 1024, "max_epochs": 10_000_000}


def parse(argv: Sequence[str]) -> Namespace:
    """Parse the arguments of `lit-prune study`.

    Args:
        argv: The arguments after `lit-prune study`.

    Returns:
        The options by name, None for an option that was not given. `plan` is a path or the name of a shipped plan, and
        `settings` is a list of mappings to merge into the plan's settings, in this order.
    """
    presets = ", ".join(shipped_plans())
    parser = CommandParser(
        prog="lit-prune study",
        description="Run the experiments of a plan, and write a report. If the study was interrupted, the same command "
        "continues it: finished runs are kept, and interrupted runs are resumed.",
        epilog="Options of `lit-prune fit` that begin with --data, --model or --trainer are also accepted. They apply "
        "to every experiment, for example --data.limit_train 10000, --trainer.precision bf16-mixed, or "
        "--model.optimizer.lr 0.01, except where an experiment's own `overrides` set the same. Their values are YAML.",
    )
    parser.add_argument("plan", metavar="PLAN", nargs="?", help="YAML file with your own plan.")
    parser.add_argument("--preset", metavar="NAME", help=f"Name of a plan that ships with lit-prune: {presets}.")
    parser.add_argument(
        "--out", metavar="DIR", help="Folder for the runs and the report (default: lightning_logs/<name of the plan>)."
    )
    parser.add_argument(
        "--seeds", metavar="N", type=int, nargs="+", help="Random seeds; every experiment runs once with each seed."
    )
    parser.add_argument(
        "--only",
        metavar="GLOB",
        nargs="+",
        help="Run only the experiments whose names match one of these globs, such as 'task5/*', and the experiments "
        "from whose weights they start (their parents).",
    )
    parser.add_argument(
        "--max_epochs", metavar="N", type=int, help="Number of epochs of every experiment that does not set its own."
    )
    parser.add_argument("--weights", help="Initial weights of the model: IMAGENET1K_V1, a file, or random.")
    parser.add_argument(
        "--jobs",
        metavar="N",
        type=int,
        help="Number of parallel runs (default: 1 on a GPU, else cores / threads; with --ray, as many as fit).",
    )
    parser.add_argument("--threads", metavar="N", type=int, help="Number of CPU threads of each run.")
    parser.add_argument(
        "--compile", action="store_true", help="Compile the network of every run, as `lit-prune fit --compile` does."
    )
    parser.add_argument(
        "--ray", metavar="ADDRESS", help="Ray cluster to run on: auto (find one), local (start one), or HOST:PORT."
    )
    parser.add_argument(
        "--dry_run",
        action="store_true",
        help="Only print the experiments and, if no GPU is available, an estimate of the duration.",
    )
    parser.add_argument(_SETTING, dest="settings", action="append", default=[], help=argparse.SUPPRESS)
    with one_sentence_errors(argv):
        given: Namespace = parser.parse_args(_join_settings(argv))
    for what, path in (("the plan", given.plan), ("`--out`", given.out), ("`--weights`", given.weights)):
        if path is not None:
            check_path(what, path)
    if given.ray is not None and not re.fullmatch(r"auto|local|(ray://)?[\w.\-\[\]:]+:\d+", given.ray, re.ASCII):
        found = f"`{shorten(given.ray)}`"
        raise expected("`--ray` to be auto, local or HOST:PORT", found, "`local` starts a cluster on this machine")
    if (given.plan is None) == (given.preset is None):
        found = "neither" if given.plan is None else "both"
        hint = f"write `lit-prune study PLAN.yaml`, with the plan before the options, or `--preset` with {presets}"
        raise expected("either the file of a plan or `--preset`", found, hint)
    if given.preset is not None and given.preset not in shipped_plans():
        hint = closest_hint(given.preset, shipped_plans(), "to run your own plan, give its path without `--preset`")
        raise expected(f"`--preset` to be one of {presets}", f"`{shorten(given.preset)}`", hint)
    for name, largest in _LARGEST.items():
        if given[name] is not None:
            check_integer(f"--{name}", given[name], 1, largest, hint="check the value")
    given.plan = given.preset or given.plan
    given.out = None if given.out is None else Path(given.out)
    given.settings = [_setting(*text.split("=", 1)) for text in sorted(given.settings, key=_depth)]
    if given.pop("compile"):
        given.settings.append({"compile": True})
    if given.max_epochs is not None:
        given.settings.append({"trainer": {"max_epochs": given.max_epochs}})
    return given


def _join_settings(argv: Sequence[str]) -> list[str]:
    """Replace each `--data.NAME VALUE` or `--data.NAME=VALUE` by a value of `_SETTING`; also for model and trainer."""
    result: list[str] = []
    words = list(reversed(argv))
    while words:
        word = words.pop()
        if not word.startswith(_GROUPS):
            result.append(word)
            continue
        if "=" not in word:
            if not words or words[-1].startswith("--"):
                raise expected(f"a value after `{word}`", "none", f"write `{word} VALUE`")
            word = f"{word}={words.pop()}"
        result.append(f"{_SETTING}={word}")
    return result


def _depth(setting: str) -> tuple[int, bool]:
    """Return a key that sorts a class before its arguments: setting a class removes arguments that were set before."""
    name = setting.partition("=")[0]
    return name.count("."), not name.endswith(".class_path")


def _setting(name: str, text: str) -> dict[str, Any]:
    if not all(name.split(".")):
        raise expected("a known option", f"`{shorten(name)}`", "`--help=all` lists all options")
    if name.startswith("--trainer.callbacks."):
        hint = "for example `--trainer.callbacks+ '{class_path: GlobalL1Pruning, init_args: {amount: 0.3}}'`"
        raise expected("callbacks and their arguments in one value", f"`{shorten(name)}`", hint)
    try:
        value = load_yaml_text(text, name)
    except InputError:
        raise
    # ValueError: a date that does not exist; RecursionError: deeply nested brackets
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise expected(f"`{name}` to be valid YAML", f"`{shorten(text)}`", "put quotes around the value") from error
    for part in reversed(name.removeprefix("--").split(".")):
        value = {part: value}
    return value  # type: ignore[no-any-return]
