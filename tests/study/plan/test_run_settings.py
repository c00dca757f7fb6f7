"""The configuration of one run, and what its parser refuses."""

import copy
from pathlib import Path
from typing import Any

import pytest

from lit_prune.errors import InputError
from lit_prune.study.plan.loading import load_plan, shipped_plans
from lit_prune.study.plan.plan import Plan
from lit_prune.study.plan.run_settings import (
    count_epochs,
    has_default_model,
    parent_checkpoint,
    run_folder,
    run_settings,
)
from lit_prune.study.plan.validation import read_plan
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


def test_a_study_sets_seed_name_threads_and_quiet():
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


def test_overrides_are_merged_into_settings():
    config = config_of(
        {"trainer": {"callbacks": ["X"], "max_epochs": 9}, "data": {"val_size": 20}},
        {"overrides": {"trainer": {"callbacks+": ["Y"]}, "data": {"val_size": 30}}},
    )
    assert config["trainer"]["callbacks"] == ["X", "Y"]
    assert (config["trainer"]["max_epochs"], config["data"]["val_size"]) == (9, 30)


def test_the_seed_replaces_its_placeholder():
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
def test_a_run_without_a_parent_starts_from_the_weights_of_the_plan(weights, model):
    assert config_of({"model": {"output": "softmax"}}, initial_weights=weights)["model"] == model


@pytest.mark.parametrize("weights", [None, "random", "IMAGENET1K_V1"])
def test_a_run_with_a_parent_starts_from_its_checkpoint_with_the_same_seed(weights):
    config = config_of({"model": {"weights": "a.pt"}}, {"parent": "first"}, initial_weights=weights)
    assert config["model"] == {"weights": None, "init_from": "out/first/seed=3/checkpoints/last.ckpt"}


def test_the_settings_of_a_custom_model_stay_but_for_its_start():
    assert config_of(FOREIGN, initial_weights="random")["model"] == FOREIGN["model"]
    assert "init_from" not in config_of(FOREIGN)
    config = config_of(FOREIGN, {"parent": "first"})
    assert (config["model"], config["init_from"]) == (FOREIGN["model"], "out/first/seed=3/checkpoints/last.ckpt")
    by_name = config_of({"model": "some.Model"}, {"parent": "first"})
    assert (by_name["model"], by_name["init_from"]) == ("some.Model", "out/first/seed=3/checkpoints/last.ckpt")


@pytest.mark.parametrize(
    ("config", "default"),
    [
        ({}, True),
        ({"model": None}, True),
        ({"model": {"output": "x"}}, True),
        ({"model": "X"}, False),
        (FOREIGN, False),
    ],
)
def test_a_default_model_is_one_without_a_class(config, default):
    assert has_default_model(config) is default


def test_the_best_checkpoint_is_used_if_it_exists(tmp_path):
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
def test_epochs_are_counted_from_the_settings_of_a_run(experiment, epochs):
    plan = plan_of({"name": "a", **experiment}, settings={"trainer": {"max_epochs": 9}})
    assert count_epochs(plan, plan["a"]) == epochs


@pytest.mark.parametrize(("trainer", "epochs"), [(None, 30), ({}, 30), ({"max_epochs": -1}, 1)])
def test_epochs_have_a_default(trainer, epochs):
    plan = plan_of({"name": "a"}, settings={"trainer": trainer})
    assert count_epochs(plan, plan["a"]) == epochs


@pytest.mark.parametrize(
    ("settings", "wanted", "found"),
    [
        ({"trainer": {"logger": True}}, "no `trainer.logger`", "True"),
        ({"trainer": {"logger": False}}, "no `trainer.logger`", "False"),
        ({"trainer": {"default_root_dir": "x"}}, "no `trainer.default_root_dir`", "x"),
        ({"trainer": {"fast_dev_run": 2}}, "no `trainer.fast_dev_run`", "2"),
        ({"trainer": {"enable_checkpointing": False}}, "no `trainer.enable_checkpointing`", "False"),
        ({"seed_everything": 4}, "no `seed_everything`", "4"),
        ({"name": "x"}, "no `name`", "x"),
        ({"ckpt_path": "x"}, "no `ckpt_path`", "x"),
        ({"config": "x"}, "no `config`", "x"),
        ({"threads": 4}, "no `threads`", "4"),
    ],
)
def test_settings_that_a_study_decides_are_refused_with_the_name_of_the_experiment(settings, wanted, found):
    fine = {"name": "fine"}
    plan = plan_of(fine, {"name": "g/bad", "overrides": settings})
    check_settings(plan, [plan["fine"]], OUT)
    with pytest.raises(InputError, match=rf"^In `g/bad`: Expected {wanted} in .*, but got {found}\. HINT: .+\.$"):
        check_settings(plan, plan.experiments, OUT)


def test_settings_that_change_nothing_are_accepted():
    harmless = {"logger": None, "default_root_dir": None, "fast_dev_run": False, "enable_checkpointing": True}
    assert config_of({"trainer": harmless, "seed_everything": None})["trainer"].items() >= harmless.items()


def callback(name: str, **arguments: Any) -> dict[str, Any]:
    return {"trainer": {"callbacks+": [{"class_path": name, "init_args": arguments}]}}


@pytest.mark.parametrize(
    ("settings", "found", "hint"),
    [
        ({"model": {"outptu": "logits"}}, "--model.outptu", "--model.output"),
        ({"modle": {"output": "logits"}}, "--modle.output", "--model.output"),
        ({"model": {"output": "logts"}}, "logts", "logits"),
        ({"data": {"val_size": "abc"}}, "abc", None),
        (callback("GlobalL1Prunin"), "GlobalL1Prunin", "GlobalL1Pruning"),
        (callback("GlobalL1Pruning", amunt=0.3), "amunt", "amount"),
    ],
)
def test_an_error_of_the_parser_names_the_experiment(settings, found, hint):
    plan = plan_of({"name": "fine"}, {"name": "g/bad", "overrides": settings})
    with pytest.raises(InputError, match=f"^In `g/bad`: Expected .*, but got `{found}`") as error:
        check_settings(plan, plan.experiments, OUT)
    assert hint is None or f"did you mean `{hint}`" in str(error.value)


@pytest.mark.gate
@pytest.mark.parametrize("name", shipped_plans())
def test_every_experiment_that_ships_parses(name, capsys):
    plan = load_plan(name).with_seeds([7])
    check_settings(plan, plan.experiments, OUT)
    assert capsys.readouterr().out == ""
