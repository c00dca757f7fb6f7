"""A study's folder belongs to one plan, to which seeds can be added."""

# ruff: noqa: E501 - one line for each case

import re
from typing import Any

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.study.plan.loading import load_plan, shipped_plans
from lit_prune.study.plan.plan import Plan
from lit_prune.study.plan.stored import store_plan, stored_plan
from lit_prune.study.plan.validation import read_plan

CLAIM = {"said": "so", "contrasts": [{"of": "a", "measure": "epochs", "between": [0, 1]}]}


def plan_of(**keys: Any) -> Plan:
    experiments = [{"name": "a"}, {"name": "b", "parent": "a", "overrides": {"data": {"val_size": 20}}}]
    content = {"experiments": experiments, "settings": {"trainer": {"max_epochs": 3}}, "initial_weights": "random"}
    return read_plan(content | keys, "p")


def refused(out: Any, plan: Plan) -> str:
    """Return the error for a plan that does not belong to a folder, in which no file may change."""
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    with pytest.raises(InputError) as error:
        store_plan(plan, out)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    return str(error.value)


@pytest.mark.parametrize("name", shipped_plans())
def test_a_stored_plan_is_read_back(tmp_path, name):
    plan = load_plan(name)
    assert store_plan(plan, tmp_path / "deep" / "out") == plan
    assert stored_plan(tmp_path / "deep" / "out") == plan


def test_the_same_plan_is_not_written_again(tmp_path):
    store_plan(plan_of(), tmp_path)
    before = (tmp_path / "plan.yaml").stat()
    assert store_plan(plan_of(), tmp_path) == plan_of()
    assert (tmp_path / "plan.yaml").stat() == before


def test_seeds_can_be_added_and_never_get_lost(tmp_path):
    store_plan(plan_of(seeds=[1]), tmp_path)
    assert store_plan(plan_of(seeds=[2, 0]), tmp_path).seeds == (0, 1, 2)
    assert store_plan(plan_of(seeds=[1]), tmp_path).seeds == (0, 1, 2)
    assert stored_plan(tmp_path) == plan_of(seeds=[0, 1, 2])


def test_titles_metrics_and_claims_may_change(tmp_path):
    store_plan(plan_of(), tmp_path)
    changed = plan_of(groups={"a": "Title"}, metrics={"val_acc": "acc"}, claims=[CLAIM], name="other")
    assert changed != plan_of()
    assert store_plan(changed, tmp_path) == stored_plan(tmp_path) == changed


def test_the_order_of_experiments_may_change(tmp_path):
    first, second = {"name": "a"}, {"name": "b"}
    store_plan(plan_of(experiments=[first, second]), tmp_path)
    assert store_plan(plan_of(experiments=[second, first]), tmp_path).experiments[0].name == "b"


B = {"name": "b", "parent": "a", "overrides": {"data": {"val_size": 20}}}


@pytest.mark.parametrize(
    ("keys", "known", "new"),
    [
        ({"settings": {"trainer": {"max_epochs": 4}}}, "`settings.trainer.max_epochs` 3", "`settings.trainer.max_epochs` 4"),
        ({"settings": {}}, "`settings.trainer.max_epochs` 3", "no `settings.trainer.max_epochs`"),
        ({"settings": {"data": {"augment": "flip"}, "trainer": {"max_epochs": 3}}}, "no `settings.data.augment`", "`settings.data.augment` 'flip'"),
        ({"threads": 2}, "`threads` 1", "`threads` 2"),
        ({"initial_weights": "IMAGENET1K_V1"}, "`initial_weights` 'random'", "`initial_weights` 'IMAGENET1K_V1'"),
        ({"experiments": [{"name": "a"}]}, "`experiments.b.name` 'b'", "no `experiments.b.name`"),
        ({"experiments": [{"name": "a"}, B, {"name": "c"}]}, "no `experiments.c.name`", "`experiments.c.name` 'c'"),
        ({"experiments": [{"name": "a", "train": False}, B]}, "no `experiments.a.train`", "`experiments.a.train` False"),
        ({"experiments": [{"name": "a"}, B | {"overrides": {"data": {"val_size": 30}}}]}, "`experiments.b.overrides.data.val_size` 20", "`experiments.b.overrides.data.val_size` 30"),
        ({"experiments": [{"name": "a"}, B | {"checkpoint": "best"}]}, "no `experiments.b.checkpoint`", "`experiments.b.checkpoint` 'best'"),
    ],
)  # fmt: skip
def test_what_results_depend_on_may_not_change(tmp_path, keys, known, new):
    out = tmp_path / "out"
    store_plan(plan_of(), out)
    for seeds in ([0], [5]):
        sentence = refused(out, plan_of(seeds=seeds, **keys))
        assert f"{known}, as in the plan of the study in `{out}`, but got {new}. HINT: give another `--out`" in sentence
    assert stored_plan(out) == plan_of()


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert refused(tmp_path, plan_of()).startswith(f"Expected `{tmp_path}` to be new, empty or this study's folder")


def test_hidden_files_are_ignored(tmp_path):
    (tmp_path / ".lock").touch()
    assert store_plan(plan_of(), tmp_path) == stored_plan(tmp_path)


@pytest.mark.parametrize(
    ("prepare", "found"),
    [
        (lambda out: None, "is not a folder"),
        (lambda out: out.mkdir(), "is empty"),
        (lambda out: out.write_text("text"), "is not a folder"),
    ],
)
def test_a_folder_without_a_plan_is_refused(tmp_path, prepare, found):
    out = tmp_path / "out"
    prepare(out)
    sentence = f"Expected the folder of a study, but got `{out}`, which {found}. HINT: "
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}"):
        stored_plan(out)


@pytest.mark.parametrize(
    ("content", "begins"),
    [
        (b"", "Expected a plan in `{path}`, but got an empty file"),
        (b"- 1\n", "Expected a plan in `{path}`, but got a list"),
        (b"a: [", "Expected `{path}` to be a readable YAML file, but got line 2, column 1: did not find expected node content"),
        (b"a: 2024-13-45", "Expected `{path}` to be a readable YAML file, but got month must be in 1..12"),
        (b"\xff", "Expected `{path}` to be a readable YAML file, but got 'utf-8' codec can't decode byte 0xff"),
        (b"experiments: []", "Expected at least one experiment in `{path}`, but got none."),
    ],
)  # fmt: skip
def test_a_broken_plan_file_is_refused_in_one_sentence(tmp_path, content, begins):
    path = tmp_path / "plan.yaml"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        stored_plan(tmp_path)
    assert str(error.value).startswith(begins.format(path=path))
    assert "\n" not in str(error.value)
    assert refused(tmp_path, plan_of()) == str(error.value)


def test_the_file_is_readable_yaml(tmp_path):
    store_plan(plan_of(groups={"a": "Über 数"}), tmp_path)
    text = (tmp_path / "plan.yaml").read_text(encoding="utf-8")
    assert "Über 数" in text
    assert "&" not in text  # no anchors
    assert yaml.safe_load(text)["experiments"][0] == {"name": "a"}
