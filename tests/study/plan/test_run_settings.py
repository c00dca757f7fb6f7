"""From an experiment and a seed to the configuration of one run, and what its parser says of it."""

# ruff: noqa: E501 - sentences, as a person sees them

import copy
import re
from pathlib import Path
from typing import Any

import pytest

from lit_prune.errors import InputError
from lit_prune.study.plan.plan import Plan, load_plan, read_plan, shipped_plans
from lit_prune.study.plan.run_settings import epochs_of, is_ours, parent_checkpoint, run_folder, run_settings
from lit_prune.study.run.preflight import check_settings

OUT = Path("out")
FOREIGN = {"model": {"class_path": "some.Model"}}


def plan_of(*experiments: dict[str, Any], **keys: Any) -> Plan:
    return read_plan({"name": "study", "experiments": list(experiments), **keys}, "p")


def config_of(settings: dict[str, Any], experiment: dict[str, Any] | None = None, **keys: Any) -> dict[str, Any]:
    """The configuration of the last experiment, with seed 3."""
    plan = plan_of({"name": "first"}, {"name": "g/last"} | (experiment or {}), settings=settings, **keys)
    before = copy.deepcopy(plan)
    config = run_settings(plan, plan["g/last"], 3, OUT)
    assert plan == before
    return config


def test_the_study_decides_seed_name_threads_and_quiet():
    config = config_of({"data": {"val_size": 20}}, {"overrides": {"trainer": {"max_epochs": 2}}}, threads=2)
    assert config == {
        "data": {"val_size": 20},
        "trainer": {"max_epochs": 2, "enable_progress_bar": False, "enable_model_summary": False},
        "model": {},
        "seed_everything": 3,
        "threads": 2,
        "name": "study-g-last-seed3",
        "on_nan": "continue",
    }


def test_a_plan_can_stop_runs_that_diverge():
    assert config_of({"on_nan": "stop"})["on_nan"] == "stop"


def test_overrides_are_laid_over_settings():
    config = config_of(
        {"trainer": {"callbacks": ["X"], "max_epochs": 9}, "data": {"val_size": 20}},
        {"overrides": {"trainer": {"callbacks+": ["Y"]}, "data": {"val_size": 30}}},
    )
    assert config["trainer"]["callbacks"] == ["X", "Y"]
    assert (config["trainer"]["max_epochs"], config["data"]["val_size"]) == (9, 30)


def test_the_seed_stands_where_it_is_asked_for():
    callbacks = [{"class_path": "X", "init_args": {"seed": "$seed", "names": ["$seed", "a$seed"]}}]
    config = config_of({"trainer": {"callbacks": callbacks}, "data": {"x": "$seed"}})
    assert config["trainer"]["callbacks"][0]["init_args"] == {"seed": 3, "names": [3, "a$seed"]}
    assert config["data"] == {"x": 3}


@pytest.mark.parametrize(
    ("weights", "model"),
    [
        (None, {"output": "softmax"}),
        ("random", {"output": "softmax", "weights": None}),
        ("IMAGENET1K_V1", {"output": "softmax", "weights": "IMAGENET1K_V1"}),
        ("a/file.pt", {"output": "softmax", "weights": "a/file.pt"}),
    ],
)
def test_without_a_parent_a_run_starts_from_the_plans_weights(weights, model):
    assert config_of({"model": {"output": "softmax"}}, initial_weights=weights)["model"] == model


@pytest.mark.parametrize("weights", [None, "random", "IMAGENET1K_V1"])
def test_with_a_parent_a_run_starts_from_its_checkpoint_of_the_same_seed(weights):
    config = config_of({"model": {"weights": "a.pt"}}, {"parent": "first"}, initial_weights=weights)
    assert config["model"] == {"weights": None, "init_from": "out/first/seed=3/checkpoints/last.ckpt"}


def test_somebody_elses_model_is_left_alone_but_for_its_start():
    assert config_of(FOREIGN, initial_weights="random")["model"] == FOREIGN["model"]
    assert "init_from" not in config_of(FOREIGN)
    config = config_of(FOREIGN, {"parent": "first"})
    assert (config["model"], config["init_from"]) == (FOREIGN["model"], "out/first/seed=3/checkpoints/last.ckpt")
    by_name = config_of({"model": "some.Model"}, {"parent": "first"})
    assert (by_name["model"], by_name["init_from"]) == ("some.Model", "out/first/seed=3/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("config", "ours"),
    [
        ({}, True),
        ({"model": None}, True),
        ({"model": {"output": "x"}}, True),
        ({"model": "X"}, False),
        (FOREIGN, False),
    ],
)
def test_whose_model_it_is(config, ours):
    assert is_ours(config) is ours


def test_the_best_checkpoint_is_taken_where_there_is_one(tmp_path):
    folder = run_folder(tmp_path, "g/a", 3)
    assert folder == tmp_path / "g" / "a" / "seed=3"
    last, best = folder / "checkpoints" / "last.ckpt", folder / "checkpoints" / "best-epoch=002-val_acc=0.5.ckpt"
    assert parent_checkpoint(folder, "best") == parent_checkpoint(folder, "last") == last
    best.parent.mkdir(parents=True)
    best.touch()
    assert parent_checkpoint(folder, "last") == last
    assert parent_checkpoint(folder, "best") == best


@pytest.mark.parametrize(
    ("experiment", "epochs"),
    [({}, 9), ({"train": False}, 1), ({"overrides": {"trainer": {"max_epochs": 2}}}, 2)],
)
def test_epochs_are_those_that_a_run_trains(experiment, epochs):
    plan = plan_of({"name": "a", **experiment}, settings={"trainer": {"max_epochs": 9}})
    assert epochs_of(plan, plan["a"]) == epochs


@pytest.mark.parametrize(("trainer", "epochs"), [(None, 30), ({}, 30), ({"max_epochs": -1}, 1)])
def test_epochs_are_the_default_where_none_are_given(trainer, epochs):
    plan = plan_of({"name": "a"}, settings={"trainer": trainer})
    assert epochs_of(plan, plan["a"]) == epochs


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"trainer": {"logger": True}}, "no `trainer.logger` in a study, but got True. HINT: the report reads what the study's own loggers write."),
        ({"trainer": {"logger": False}}, "no `trainer.logger` in a study, but got False. HINT: the report reads what the study's own loggers write."),
        ({"trainer": {"default_root_dir": "x"}}, "no `trainer.default_root_dir` in a study, but got x. HINT: `--out` says where its runs are."),
        ({"trainer": {"fast_dev_run": 2}}, "no `trainer.fast_dev_run` in a study, but got 2. HINT: a rehearsal leaves nothing to report."),
        ({"trainer": {"enable_checkpointing": False}}, "no `trainer.enable_checkpointing` in a study, but got False. HINT: runs are scored, and gone on with, from their checkpoints."),
        ({"seed_everything": 4}, "no `seed_everything` in the settings of a study, but got 4. HINT: `seeds` of the plan, or `--seeds`, says which are run."),
        ({"name": "x"}, "no `name` in the settings of a study, but got x. HINT: it is made of those of the plan, the experiment and the seed."),
        ({"ckpt_path": "x"}, "no `ckpt_path` in the settings of a study, but got x. HINT: an experiment's `parent` says what it starts from."),
        ({"config": "x"}, "no `config` in the settings of a study, but got x. HINT: write the settings into the plan."),
        ({"threads": 4}, "no `threads` in the settings of a study, but got 4. HINT: `threads` of the plan, or `--threads`, says how many."),
    ],
)  # fmt: skip
def test_what_a_study_decides_is_refused_and_the_experiment_named(settings, sentence):
    fine = {"name": "fine"}
    plan = plan_of(fine, {"name": "g/bad", "overrides": settings})
    check_settings(plan, [plan["fine"]], OUT)
    with pytest.raises(InputError, match=f"^{re.escape(f'In `g/bad`: Expected {sentence}')}$"):
        check_settings(plan, plan.experiments, OUT)


def test_what_changes_nothing_is_not_refused():
    harmless = {"logger": None, "default_root_dir": None, "fast_dev_run": False, "enable_checkpointing": True}
    assert config_of({"trainer": harmless, "seed_everything": None})["trainer"].items() >= harmless.items()


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks+": [{"class_path": name, "init_args": arguments}]}}


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": {"outptu": "logits"}}, "Expected a known option, but got `--model.outptu`. HINT: did you mean `--model.output`."),
        ({"modle": {"output": "logits"}}, "Expected a known option, but got `--modle.output`. HINT: did you mean `--model.output`."),
        ({"model": {"output": "logts"}}, "Expected `--model.output` to be one of logits, softmax, scaled_softmax, but got `logts`. HINT: did you mean `logits`."),
        ({"data": {"val_size": "abc"}}, "Expected `--data.val_size` to be a whole number, but got `abc`. HINT: check the value."),
        (callback("GlobalL1Prunin"), "Expected `--trainer.callbacks` to name a callback, but got `GlobalL1Prunin`. HINT: did you mean `GlobalL1Pruning`."),
        (callback("GlobalL1Pruning", amunt=0.3), "Expected an argument of GlobalL1Pruning, but got `amunt`. HINT: did you mean `amount`."),
    ],
)  # fmt: skip
def test_what_the_parser_refuses_names_the_experiment(settings, sentence):
    plan = plan_of({"name": "fine"}, {"name": "g/bad", "overrides": settings})
    with pytest.raises(InputError, match=f"^{re.escape(f'In `g/bad`: {sentence}')}$"):
        check_settings(plan, plan.experiments, OUT)


# a plan with a base shares most experiments with it: one of those tells whether its settings parse
FULL = load_plan("full").experiments
SHIPPED = [
    (name, experiment.name)
    for name in shipped_plans()
    for index, experiment in enumerate(load_plan(name).experiments)
    if name == "full" or index == 0 or experiment not in FULL
]


@pytest.mark.parametrize(("name", "experiment"), SHIPPED)
def test_every_experiment_that_ships_parses(name, experiment, capsys):
    plan = load_plan(name).with_seeds([7])
    check_settings(plan, [plan[experiment]], OUT)
    assert capsys.readouterr().out == ""
