"""The options of `lit-prune study`."""

import re
import shlex
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from lit_prune.errors import InputError
from lit_prune.files.nested import merge
from lit_prune.study.run.options import parse

PRESETS = "criteria, full, medium, original, quick, sparse-training"
NONE = dict.fromkeys(("preset", "out", "seeds", "only", "max_epochs", "weights", "jobs", "threads", "ray"))


def apply(settings: dict[str, Any], *argv: str) -> dict[str, Any]:
    """Apply the settings on a command line to the settings of a plan."""
    return reduce(merge, parse(["p.yaml", *argv]).settings, settings)


def test_by_default_the_plan_decides():
    assert parse(["p.yaml"]).as_dict() == NONE | {"plan": "p.yaml", "dry_run": False, "settings": []}
    assert parse(["--preset", "quick"]).plan == "quick"


def test_every_option_is_returned():
    argv = (
        "--out DIR --seeds 3 1 --only a/* b --weights random --jobs 2 --threads 4 --ray auto --dry_run --max_epochs 7"
    )
    assert parse(["p.yaml", *argv.split()]).as_dict() == {
        "plan": "p.yaml",
        "preset": None,
        "out": Path("DIR"),
        "seeds": [3, 1],
        "only": ["a/*", "b"],
        "max_epochs": 7,
        "weights": "random",
        "jobs": 2,
        "threads": 4,
        "ray": "auto",
        "dry_run": True,
        "settings": [{"trainer": {"max_epochs": 7}}],
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["--data.limit_train", "10", "p.yaml"],
        ["p.yaml", "--data.limit_train", "10"],
        ["--data.limit_train=10", "p.yaml"],
        ["--jobs", "2", "--data.limit_train", "10", "p.yaml", "--dry_run"],
        ["--seeds", "1", "--data.limit_train", "10", "p.yaml"],
    ],
)
def test_the_value_of_a_setting_is_not_the_plan(argv):
    options = parse(argv)
    assert (options.plan, options.settings) == ("p.yaml", [{"data": {"limit_train": 10}}])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("10", 10),
        ("0.5", 0.5),
        ("true", True),
        ("null", None),
        ("a b", "a b"),
        ("-3", -3),
        ("[1, x]", [1, "x"]),
        ("{a: 1}", {"a": 1}),
        ("a=b", "a=b"),
        ("''", ""),
        ("$seed", "$seed"),
    ],
)
def test_values_are_yaml(text, value):
    for argv in (["--model.x", text], [f"--model.x={text}"]):
        assert parse(["p.yaml", *argv]).settings == [{"model": {"x": value}}]


def test_the_last_value_counts():
    assert apply({}, "--trainer.max_epochs", "3", "--trainer.max_epochs", "4") == {"trainer": {"max_epochs": 4}}
    assert apply({}, "--max_epochs", "5", "--trainer.max_epochs", "4") == {"trainer": {"max_epochs": 5}}


def test_a_callback_is_added_to_those_of_the_plan():
    settings = {"trainer": {"callbacks": ["SparsityMonitor"]}}
    assert apply(settings, "--trainer.callbacks+=X", "--trainer.callbacks+", "{class_path: Y}") == {
        "trainer": {"callbacks": ["SparsityMonitor", "X", {"class_path": "Y"}]}
    }
    assert apply(settings, "--trainer.callbacks", "[X]") == {"trainer": {"callbacks": ["X"]}}


@pytest.mark.parametrize("lr", ["--model.optimizer.lr=0.5", "--model.optimizer.init_args.lr=0.5"])
@pytest.mark.parametrize("sgd", [[], ["--model.optimizer=SGD"], ["--model.optimizer.class_path=SGD"]])
@pytest.mark.parametrize("order", [1, -1])
def test_an_argument_of_a_class_is_kept_in_any_order(lr, sgd, order):
    settings = {"model": {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.001, "fused": True}}}}
    optimizer = apply(settings, *[lr, *sgd][::order])["model"]["optimizer"]
    assert optimizer["init_args"]["lr"] == 0.5
    assert optimizer["class_path"] == ("SGD" if sgd else "Adam")
    assert ("fused" in optimizer["init_args"]) == (not sgd)


QUICK = ["--preset", "quick"]


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ([], f"with the plan before the options, or `--preset` with {PRESETS}"),
        (["--dry_run"], "`--preset`, but got neither"),
        (["p.yaml", *QUICK], "`--preset`, but got both"),
        (["--preset", "quik"], f"one of {PRESETS}, but got `quik`. HINT: did you mean `quick`"),
        (["--preset", "xyzzy"], "but got `xyzzy`. HINT: to run your own plan"),
        (["--preset", "p.yaml"], "but got `p.yaml`. HINT: to run your own plan"),
        ([*QUICK, "--dryrun"], "`--dryrun`. HINT: did you mean `--dry_run`"),
        ([*QUICK, "--job", "3"], "`--job`. HINT: did you mean `--jobs`"),
        ([*QUICK, "--jobz=3"], "`--jobz`. HINT: did you mean `--jobs`"),
        ([*QUICK, "--xyzzy", "3"], "a known option, but got `--xyzzy`"),
        ([*QUICK, "--optimizer.lr=3"], "a known option, but got `--optimizer.lr`"),
        ([*QUICK, "--data=3"], "a known option, but got `--data`"),
        ([*QUICK, "--data..x=3"], "a known option, but got `--data..x`"),
        (["a.yaml", "b.yaml"], "but got `b.yaml`"),
        (["p.yaml", "--seeds", "a"], "`--seeds` to be an integer, but got `a`"),
        (["p.yaml", "--seeds"], "a value after `--seeds`"),
        (["p.yaml", "--seeds", "1", "--out"], "a value after `--out`"),
        (["p.yaml", "--out="], "`--out` to be a path"),
        (["p.yaml", "--jobs", "1.5"], "`--jobs` to be an integer, but got `1.5`"),
        (["p.yaml", "--jobs", "0"], "`--jobs` to be an integer in [1, 10000], but got 0"),
        (["p.yaml", "--threads", "-1"], "`--threads` to be an integer in [1, 1024], but got -1"),
        (["p.yaml", "--max_epochs", "0"], "`--max_epochs` to be an integer in [1, 10000000], but got 0"),
        (["p.yaml", "--ray", "here"], "`--ray` to be auto, local or HOST:PORT, but got `here`"),
        (["p.yaml", "--data.limit_train"], "a value after `--data.limit_train`"),
        (["p.yaml", "--data.limit_train", "--dry_run"], "a value after `--data.limit_train`"),
        (["p.yaml", "--data.x", "[1"], "`--data.x` to be valid YAML, but got `[1`"),
        (["p.yaml", "--data.x=2024-13-45"], "`--data.x` to be valid YAML, but got `2024-13-45`"),
        (
            ["p.yaml", "--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"],
            "callbacks and their arguments in one value, but got `--trainer.callbacks.amount`",
        ),
    ],
)
def test_a_mistake_is_reported_in_one_sentence(argv, phrase):
    with pytest.raises(InputError, match=re.escape(phrase)) as error:
        parse(argv)
    assert "\n" not in str(error.value)


def test_the_example_of_a_hint_can_be_pasted():
    with pytest.raises(InputError) as error:
        parse(["p.yaml", "--trainer.callbacks.amount=0.3"])
    example = re.search(r"HINT: for example `(.*)`", str(error.value))
    assert example is not None
    assert parse(["p.yaml", *shlex.split(example[1])]).settings[0]["trainer"]


@pytest.mark.parametrize("word", ['--model.channels={"head.0": 8}', "--model.channels {head.0:  8}"])
def test_a_value_may_have_spaces(word):
    argv = word.split(" ", 1) if "=" not in word else [word]
    assert parse([*argv, "p.yaml"]).settings == [{"model": {"channels": {"head.0": 8}}}]
    assert parse(["--preset", "quick", *argv]).plan == "quick"


def test_help_names_every_option_and_the_plans_that_ship(capsys):
    with pytest.raises(SystemExit) as leave:
        parse(["--help"])
    assert leave.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("--preset", "--out", "--seeds", "--only", "--max_epochs", "--weights", "--jobs", "--threads", "--ray"):
        assert f"{word} " in printed
    assert f"{PRESETS}." in printed.replace("sparse- training", "sparse-training")  # at the end of a line
