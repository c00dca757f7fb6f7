"""What is typed after `lit-prune study`."""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.yaml import load_yaml_text
from lit_prune.study.arguments import SentenceParser, check_path
from lit_prune.study.plan.plan import shipped_plans

__all__ = ["Options", "parse"]

_GROUPS = ("data", "model", "trainer")
# stands for a space where argparse looks for one; no word has it
_SPACE = "\0"
# more than any machine is made for; torch ends without a word if it cannot make its threads
_MOST = {"jobs": 10_000, "threads": 1024, "max_epochs": 10_000_000}


@dataclass(frozen=True)
class Options:
    """The options of `lit-prune study`.

    Attributes:
        plan: Path or shipped name of the plan.
        out: The study's folder; None is `lightning_logs/<name>`.
        seeds: None takes the plan's.
        only: Globs of experiments; None runs all.
        weights: Initial weights; None takes the plan's.
        jobs: Runs at once; None takes as many as there are cores for, or one on a GPU.
        threads: CPU threads of a run; None takes the plan's.
        ray: Address of a Ray cluster, or None.
        dry_run: Only print the plan.
        settings: What is laid over the plan's settings, one after the other.
    """

    plan: str
    out: Path | None
    seeds: list[int] | None
    only: list[str] | None
    weights: str | None
    jobs: int | None
    threads: int | None
    ray: str | None
    dry_run: bool
    settings: tuple[dict[str, Any], ...]


def parse(argv: Sequence[str]) -> Options:
    """Parse the options.

    Args:
        argv: Without the command.

    Raises:
        InputError: If they cannot be used.
        SystemExit: After `--help`.
    """
    parser = SentenceParser(
        "lit-prune study",
        "options of `lit-prune study`",
        "`lit-prune study --help` lists them",
        description="Run the experiments of a plan, each after the one it starts from; what is complete is not run "
        "again, what was cut off goes on. Then write the report.",
        epilog="Every other option of `lit-prune fit` changes all experiments, for example --data.limit_train 10000, "
        "--trainer.precision bf16-mixed, --model.optimizer.lr 0.01. Values are YAML.",
    )
    parser.add_argument("plan", nargs="?", help="A plan of your own, as a YAML file.")
    parser.add_argument("--preset", help=f"A plan that ships: {', '.join(shipped_plans())}.")
    parser.add_argument("--out", metavar="DIR", help="Its folder (default: lightning_logs/<name>).")
    parser.add_argument("--seeds", metavar="N", type=int, nargs="+", help="Run every experiment with each of these.")
    parser.add_argument("--only", metavar="GLOB", nargs="+", help="Run these experiments and their parents.")
    parser.add_argument("--max_epochs", metavar="N", type=int, help="Epochs of every run.")
    parser.add_argument("--weights", help="Initial weights: IMAGENET1K_V1, a file, or random.")
    parser.add_argument("--jobs", metavar="N", type=int, help="Runs side by side (default: as there are cores).")
    parser.add_argument("--threads", metavar="N", type=int, help="CPU threads of each run.")
    parser.add_argument("--ray", metavar="ADDRESS", help="Run on a Ray cluster: auto, local, or HOST:PORT.")
    parser.add_argument("--dry_run", action="store_true", help="Print the plan with an estimate, and run nothing.")
    known, rest = parser.parse_known_args(_protected(argv))
    # first, because the value after an unknown option looks like a plan
    settings = _settings([word.replace(_SPACE, " ") for word in rest], parser)
    for what, path in (("the plan", known.plan), ("`--out`", known.out), ("`--weights`", known.weights)):
        if path is not None:
            check_path(what, path)
    if known.ray is not None and not re.fullmatch(r"auto|local|(ray://)?[\w.\-\[\]:]+:\d+", known.ray, re.ASCII):
        found = f"`{shorten(known.ray)}`"
        raise expected("`--ray` to be auto, local or HOST:PORT", found, "`local` starts a cluster on this machine")
    if (known.plan is None) == (known.preset is None):
        found = "neither" if known.plan is None else "both"
        raise expected("a plan's file or `--preset`", found, f"presets are {', '.join(shipped_plans())}")
    if known.preset is not None and known.preset not in shipped_plans():
        near = difflib.get_close_matches(known.preset, shipped_plans(), n=1)
        hint = f"did you mean `{near[0]}`" if near else "give your own plan without `--preset`"
        raise expected(f"`--preset` to be one of {', '.join(shipped_plans())}", f"`{shorten(known.preset)}`", hint)
    for name, most in _MOST.items():
        if (value := getattr(known, name)) is not None and value < 1:
            raise expected(f"`--{name}` to be a whole number from 1 on", value, "check the value")
        if value is not None and value > most:
            raise expected(f"`--{name}` to be a whole number in [1, {most}]", value, "check the value")
    if known.max_epochs is not None:
        settings = (*settings, {"trainer": {"max_epochs": known.max_epochs}})
    return Options(
        plan=known.preset or known.plan,
        out=None if known.out is None else Path(known.out),
        seeds=known.seeds,
        only=known.only,
        weights=known.weights,
        jobs=known.jobs,
        threads=known.threads,
        ray=known.ray,
        dry_run=known.dry_run,
        settings=settings,
    )


def _protected(argv: Sequence[str]) -> list[str]:
    """Tie values to the settings they follow, so that argparse does not take them for the plan."""
    result: list[str] = []
    for word in argv:
        if result and _is_setting(result[-1]) and "=" not in result[-1] and not word.startswith("--"):
            result[-1] += f"={word}"
        else:
            result.append(word)
    # an unknown option with a space in its value would be taken for the plan, too
    return [word.replace(" ", _SPACE) if _is_setting(word) else word for word in result]


def _is_setting(word: str) -> bool:
    return word.startswith(tuple(f"--{group}." for group in _GROUPS))


def _settings(argv: Sequence[str], parser: SentenceParser) -> tuple[dict[str, Any], ...]:
    settings: list[dict[str, Any]] = []
    for word in sorted(argv, key=_depth):
        name, _, text = word.partition("=")
        if not word.startswith("-"):
            raise expected("one plan", f"`{shorten(word)}` as well", "write its settings as `--data.NAME VALUE`")
        if not _is_setting(name) or not all(name.split(".")):
            raise parser.unknown(name, "a known option", "settings begin with --data, --model, --trainer")
        if name.startswith("--trainer.callbacks."):
            hint = "for example `--trainer.callbacks+ '{class_path: GlobalL1Pruning, init_args: {amount: 0.3}}'`"
            raise expected("a callback and its arguments in one value", f"`{shorten(name)}`", hint)
        if "=" not in word:
            raise expected(f"a value after `{name}`", "none", "give it as the next word")
        try:
            value = load_yaml_text(text, name)
        except InputError:
            raise
        # ValueError: a date that there is not; RecursionError: brackets in brackets in brackets ...
        except (ValueError, RecursionError, yaml.YAMLError) as error:
            found = f"`{shorten(text)}`"
            raise expected(f"`{name}` to have a value in YAML", found, "put quotes around it") from error
        for part in reversed(name.removeprefix("--").split(".")):
            value = {part: value}
        settings.append(value)
    return tuple(settings)


def _depth(word: str) -> tuple[int, bool]:
    """Sorts a class before its arguments, which another class would replace; otherwise the later word counts."""
    name = word.partition("=")[0]
    return name.count("."), not name.endswith(".class_path")
