"""What is typed after `lit-prune study`."""

# ruff: noqa: E501 - sentences, as a person sees them

import re
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from lit_prune.errors import InputError
from lit_prune.files.nested import merge
from lit_prune.study.run.options import Options, parse

PRESETS = "full, quick, reduced, seed"


def laid_over(below: dict[str, Any], *argv: str) -> dict[str, Any]:
    """Settings with what was typed."""
    return reduce(merge, parse(["p.yaml", *argv]).settings, below)


def test_nothing_but_a_plan_takes_all_from_it():
    assert parse(["p.yaml"]) == Options("p.yaml", None, None, None, None, None, None, None, False, ())
    assert parse(["--preset", "quick"]) == Options("quick", None, None, None, None, None, None, None, False, ())


def test_every_option_arrives():
    argv = (
        "--out DIR --seeds 3 1 --only a/* b --weights random --jobs 2 --threads 4 --ray auto --dry_run --max_epochs 7"
    )
    assert parse(["p.yaml", *argv.split()]) == Options(
        plan="p.yaml",
        out=Path("DIR"),
        seeds=[3, 1],
        only=["a/*", "b"],
        weights="random",
        jobs=2,
        threads=4,
        ray="auto",
        dry_run=True,
        settings=({"trainer": {"max_epochs": 7}},),
    )


@pytest.mark.parametrize(
    "words",
    [
        ["--data.limit_train", "10", "p.yaml"],
        ["p.yaml", "--data.limit_train", "10"],
        ["--data.limit_train=10", "p.yaml"],
        ["--jobs", "2", "--data.limit_train", "10", "p.yaml", "--dry_run"],
    ],
)
def test_the_value_of_a_setting_is_not_the_plan(argv):
    options = parse(argv)
    assert (options.plan, options.settings) == ("p.yaml", ({"data": {"limit_train": 10}},))


@pytest.mark.parametrize(
    ("text", "value"),
    [("10", 10), ("0.5", 0.5), ("true", True), ("null", None), ("a b", "a b"), ("-3", -3), ("[1, x]", [1, "x"]), ("{a: 1}", {"a": 1}), ("a=b", "a=b"), ("''", ""), ("$seed", "$seed")],
)  # fmt: skip
def test_values_are_yaml(text, value):
    for argv in (["--model.x", text], [f"--model.x={text}"]):
        assert parse(["p.yaml", *argv]).settings == ({"model": {"x": value}},)


def test_the_later_word_counts():
    assert laid_over({}, "--trainer.max_epochs", "3", "--trainer.max_epochs", "4") == {"trainer": {"max_epochs": 4}}
    assert laid_over({}, "--max_epochs", "5", "--trainer.max_epochs", "4") == {"trainer": {"max_epochs": 5}}


def test_a_callback_is_added_to_those_of_the_plan():
    below = {"trainer": {"callbacks": ["SparsityMonitor"]}}
    assert laid_over(below, "--trainer.callbacks+=X", "--trainer.callbacks+", "{class_path: Y}") == {
        "trainer": {"callbacks": ["SparsityMonitor", "X", {"class_path": "Y"}]}
    }
    assert laid_over(below, "--trainer.callbacks", "[X]") == {"trainer": {"callbacks": ["X"]}}


@pytest.mark.parametrize("lr", ["--model.optimizer.lr=0.5", "--model.optimizer.init_args.lr=0.5"])
@pytest.mark.parametrize("sgd", [[], ["--model.optimizer=SGD"], ["--model.optimizer.class_path=SGD"]])
@pytest.mark.parametrize("order", [1, -1])
def test_no_argument_of_a_class_is_lost_whatever_the_order(lr, sgd, order):
    below = {"model": {"optimizer": {"class_path": "Adam", "init_args": {"lr": 0.001, "fused": True}}}}
    optimizer = laid_over(below, *[lr, *sgd][::order])["model"]["optimizer"]
    assert optimizer["init_args"]["lr"] == 0.5
    assert optimizer["class_path"] == ("SGD" if sgd else "Adam")
    assert ("fused" in optimizer["init_args"]) == (not sgd)


VALUE = "Expected a value after `{}`, but got none. HINT: give it as the next word."
NUMBER = "Expected `--{}` to be a whole number from 1 on, but got {}. HINT: check the value."
PLAN = f"Expected a plan's file or `--preset`, but got {{}}. HINT: presets are {PRESETS}."
PRESET = f"Expected `--preset` to be one of {PRESETS}, but got `{{}}`. HINT: {{}}."
KNOWN = "Expected a known option, but got `{}`. HINT: {}."
GROUPS = "settings begin with --data, --model, --trainer"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], PLAN.format("neither")),
        (["--dry_run"], PLAN.format("neither")),
        (["p.yaml", "--preset", "quick"], PLAN.format("both")),
        (["--preset", "quik"], PRESET.format("quik", "did you mean `quick`")),
        (["--preset", "xyzzy"], PRESET.format("xyzzy", "give your own plan without `--preset`")),
        (["--preset", "p.yaml"], PRESET.format("p.yaml", "give your own plan without `--preset`")),
        (["--preset", "quick", "--dryrun"], KNOWN.format("--dryrun", "did you mean `--dry_run`")),
        (["--preset", "quick", "--job", "3"], KNOWN.format("--job", "did you mean `--jobs`")),
        (["--preset", "quick", "--jobz=3"], KNOWN.format("--jobz", "did you mean `--jobs`")),
        (["--preset", "quick", "--xyzzy", "3"], KNOWN.format("--xyzzy", GROUPS)),
        (["--preset", "quick", "--optimizer.lr=3"], KNOWN.format("--optimizer.lr", GROUPS)),
        (["a.yaml", "b.yaml"], "Expected one plan, but got `b.yaml` as well. HINT: write its settings as `--data.NAME VALUE`."),
        (["p.yaml", "--seeds", "a"], "Expected `--seeds` to be a whole number, but got `a`. HINT: check the value."),
        (["p.yaml", "--seeds"], VALUE.format("--seeds")),
        (["p.yaml", "--seeds", "1", "--out"], VALUE.format("--out")),
        (["p.yaml", "--jobs", "1.5"], "Expected `--jobs` to be a whole number, but got `1.5`. HINT: check the value."),
        (["p.yaml", "--jobs", "0"], NUMBER.format("jobs", 0)),
        (["p.yaml", "--threads", "-1"], NUMBER.format("threads", -1)),
        (["p.yaml", "--max_epochs", "0"], NUMBER.format("max_epochs", 0)),
        (["p.yaml", "--data.limit_train"], "Expected a value after `--data.limit_train`, but got none. HINT: give it as the next word."),
        (["p.yaml", "--data.limit_train", "--dry_run"], "Expected a value after `--data.limit_train`, but got none. HINT: give it as the next word."),
        (["p.yaml", "--data.x", "[1"], "Expected `--data.x` to have a value in YAML, but got `[1`. HINT: put quotes around it."),
        (["p.yaml", "--data.x=2024-13-45"], "Expected `--data.x` to have a value in YAML, but got `2024-13-45`. HINT: put quotes around it."),
        (["p.yaml", "--trainer.callbacks+=GlobalL1Pruning", "--trainer.callbacks.amount=0.3"], "Expected a callback and its arguments in one value, but got `--trainer.callbacks.amount`. HINT: for example `--trainer.callbacks+ '{class_path: GlobalL1Pruning, init_args: {amount: 0.3}}'`."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(argv, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        parse(argv)


@pytest.mark.parametrize("word", ['--model.channels={"head.0": 8}', "--model.channels {head.0:  8}"])
def test_a_value_may_have_spaces(word):
    argv = word.split(" ", 1) if "=" not in word else [word]
    assert parse([*argv, "p.yaml"]).settings == ({"model": {"channels": {"head.0": 8}}},)
    assert parse(["--preset", "quick", *argv]).plan == "quick"


def test_help_names_every_option_and_the_plans_that_ship(capsys):
    with pytest.raises(SystemExit) as leave:
        parse(["--help"])
    assert leave.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for word in ("--preset", "--out", "--seeds", "--only", "--max_epochs", "--weights", "--jobs", "--threads", "--ray"):
        assert f"{word} " in printed
    assert f"A plan that ships: {PRESETS}." in printed
