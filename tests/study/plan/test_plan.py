"""Plans of studies: reading, refusing, and the plans that ship."""

# ruff: noqa: E501 - one line for each case

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_prune.errors import InputError
from lit_prune.study.measures import MEASURES
from lit_prune.study.plan.loading import load_plan, shipped_plans
from lit_prune.study.plan.plan import ROLES, Plan, select
from lit_prune.study.plan.validation import read_plan

A, B, C = ({"name": name} for name in "abc")


def plan_of(*experiments: dict[str, Any], **keys: Any) -> Plan:
    return read_plan({"experiments": list(experiments), **keys}, "p")


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def assert_sentence(error: InputError, wanted: str, found: str) -> None:
    """Check that an error is one line that names the expectation and the value found."""
    assert re.fullmatch(rf"Expected .*{re.escape(wanted)}.*, but got {re.escape(found)}\. HINT: .+\.", str(error))


def names(plan: Plan) -> list[str]:
    return [experiment.name for experiment in plan.experiments]


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Plans with experiments in any order, settings, claims and titles."""
    count = draw(st.integers(1, 8))
    known = [f"g{index % 3}/e{index}" for index in range(count)]
    values = st.dictionaries(st.sampled_from(["lr", "amount"]), st.integers(0, 9) | st.booleans(), max_size=2)
    groups = st.dictionaries(st.sampled_from(["model", "data", "trainer"]), values, max_size=2)
    experiments = [
        {
            "name": name,
            "parent": draw(st.sampled_from([None, *known[:index]])),
            "checkpoint": draw(st.sampled_from(["last", "best"])),
            "train": draw(st.booleans()),
            "overrides": draw(groups),
        }
        for index, name in enumerate(known)
    ]
    claim = {
        "said": "so",
        "pretrained": draw(st.booleans()),
        "contrasts": [
            {
                "of": draw(st.sampled_from(known)),
                "measure": draw(st.sampled_from(sorted(MEASURES))),
                "minus": draw(st.sampled_from([None, *known])),
                "between": draw(st.sampled_from([[0, 1], [None, 0.5], [-1.5, None]])),
                "exact": draw(st.booleans()),
            }
        ],
    }
    return {
        "name": "study",
        "experiments": draw(st.permutations(experiments)),
        "seeds": draw(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=3, unique=True)),
        "settings": draw(groups),
        "threads": draw(st.integers(1, 64)),
        "initial_weights": draw(st.sampled_from([None, "random", "IMAGENET1K_V1"])),
        "metrics": draw(st.dictionaries(st.sampled_from(sorted(ROLES)), st.sampled_from(["x", "y/z"]), max_size=2)),
        "groups": draw(st.dictionaries(st.sampled_from(["g0", "g1"]), st.text(max_size=3))),
        "claims": draw(st.sampled_from([[], [claim]])),
    }


# the first draw takes seconds on a busy machine
patient = settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])


@patient
@given(plans())
def test_a_plan_survives_a_round_trip(content):
    plan = read_plan(content, "p")
    assert {key: plan.as_dict()[key] for key in ("seeds", "settings", "threads")} == {
        key: content[key] for key in ("seeds", "settings", "threads")
    }
    assert read_plan(plan.as_dict(), "p") == plan
    assert read_plan(yaml.safe_load(yaml.safe_dump(plan.as_dict())), "p") == plan


@patient
@given(plans())
def test_parents_come_first_and_no_experiment_is_lost(content):
    plan = read_plan(content, "p")
    written = [item["name"] for item in content["experiments"]]
    assert sorted(names(plan)) == sorted(written)
    for index, experiment in enumerate(plan.experiments):
        assert experiment.parent is None or experiment.parent in names(plan)[:index]
        assert plan[experiment.name] is experiment


@patient
@given(plans(), st.data())
def test_a_selection_contains_its_ancestors_and_no_more(content, data):
    plan = read_plan(content, "p")
    wanted = data.draw(st.sampled_from(names(plan)))
    needed = [wanted]
    while (parent := plan[needed[-1]].parent) is not None:
        needed.append(parent)
    assert [experiment.name for experiment in select(plan, [wanted])] == [n for n in names(plan) if n in needed]


def test_experiments_keep_their_order_unless_a_parent_is_later():
    child = {"name": "child", "parent": "c"}
    assert names(plan_of(B, A, C)) == ["b", "a", "c"]
    assert names(plan_of(B, child, A, C)) == ["b", "c", "child", "a"]


def test_a_selection_by_globs():
    chain = [
        {"name": "one/a"},
        {"name": "one/b", "parent": "one/a"},
        {"name": "two/a", "parent": "one/b"},
        {"name": "two/b"},
    ]
    plan = plan_of(*chain)

    def chosen(*patterns: str) -> list[str]:
        return [experiment.name for experiment in select(plan, patterns)]

    assert chosen("*") == names(plan)
    assert chosen("two/a") == ["one/a", "one/b", "two/a"]
    assert chosen("two/b") == ["two/b"]
    assert chosen("one/b", "two/b") == ["one/a", "one/b", "two/b"]
    assert chosen("*/a") == ["one/a", "one/b", "two/a"]


def test_a_glob_without_a_match_is_refused():
    plan = plan_of(*({"name": f"e{index}"} for index in range(6)))
    with pytest.raises(
        InputError, match=r"^Expected `--only` to match .* got `x\*`\. HINT: .* e0, e1, e2, e3, \.\.\.\.$"
    ):
        select(plan, ["e*", "x*"])


def test_defaults_describe_one_plain_run():
    plan = plan_of(A)
    assert plan == Plan("study", plan.experiments, (0,), {}, 1, None, ROLES, {}, ())
    assert (plan["a"].parent, plan["a"].checkpoint, plan["a"].train, plan["a"].overrides) == (None, "last", True, {})
    assert plan.as_dict()["experiments"] == [{"name": "a"}]


def test_identity_holds_what_results_depend_on():
    plan = plan_of(A)
    same = plan_of(A, seeds=[5], groups={"a": "Title"}, name="other", metrics={"val_acc": "acc"})
    assert plan.identity() == same.identity()
    for keys in ({"settings": {"data": {"x": 1}}}, {"threads": 2}, {"initial_weights": "random"}):
        assert plan_of(A, **keys).identity() != plan.identity()
    assert plan_of({"name": "a", "train": False}).identity() != plan.identity()


PLAN_KEYS = "name, experiments, seeds, settings, threads, initial_weights, metrics, groups, claims"
KEYS = "name, parent, checkpoint, train, overrides"
# what a message must name: what was expected, and the value found
SEEDS = "`seeds` in `p` to be different integers"
PLACE = "name of an experiment to be a relative path"
TAKEN = "the first part of an experiment's name not to be one of report, figures,"
UNNAMED = "each experiment in `p` to have a `name`"
THREADS = "`threads` in `p` to be a positive integer"


@pytest.mark.parametrize(
    ("content", "wanted", "found"),
    [
        ({}, "at least one experiment in `p`", "none"),
        ({"experiments": []}, "at least one experiment in `p`", "none"),
        ({"experiments": [A], "sedes": [0]}, f"only the keys {PLAN_KEYS} in `p`", "`sedes`"),
        ({"experiments": {"a": {}}}, "`experiments` in `p` to be a list", "{'a': {}}"),
        ({"experiments": "a"}, "`experiments` in `p` to be a list", "a"),
        ({"experiments": ["a"]}, UNNAMED, "a"),
        ({"experiments": [{"parent": "a"}]}, UNNAMED, "{'parent': 'a'}"),
        ({"experiments": [{"name": 3}]}, UNNAMED, "{'name': 3}"),
        ({"experiments": [{"name": "a", "parents": "b"}]}, f"only the keys {KEYS} of the experiment `a`", "`parents`"),
        ({"experiments": [A, B, A]}, "experiments with different names", "`a` twice"),
        ({"experiments": [{"name": "a", "parent": "x"}]}, "`parent` of the experiment `a` to exist", "`x`"),
        ({"experiments": [{"name": "a", "parent": ["b"]}, B]}, "`parent` of the experiment `a` to name one", "['b']"),
        ({"experiments": [{"name": "a", "parent": "a"}]}, "parents without a cycle", "a -> a"),
        ({"experiments": [{"name": "a", "parent": "b"}, {"name": "b", "parent": "c"}, {"name": "c", "parent": "b"}]}, "parents without a cycle", "a -> b -> c -> b"),
        *(({"experiments": [{"name": name}]}, PLACE, f"`{name}`") for name in ("../x", "x/../../y", "/x", "x/", "x//y", "", "x\\y", "x y", ".x", "a/seed=0")),
        *(({"experiments": [{"name": name}]}, TAKEN, f"`{name}`") for name in ("report", "figures/a", "Report/a", "plan.yaml")),
        ({"experiments": [{"name": "a/b"}, A]}, "no experiment inside another's folder", "`a` and `a/b`"),
        ({"experiments": [A, {"name": "a/b/c"}]}, "no experiment inside another's folder", "`a` and `a/b/c`"),
        ({"experiments": [{"name": "a", "checkpoint": "first"}]}, "`checkpoint` of the experiment `a` to be last or best", "first"),
        ({"experiments": [{"name": "a", "train": "no"}]}, "`train` of the experiment `a` to be true or false", "no"),
        ({"experiments": [{"name": "a", "overrides": [1]}]}, "`overrides` of the experiment `a` to be a mapping", "[1]"),
        ({"experiments": [{"name": "a", "overrides": {"trainer": 3}}]}, "`trainer` of the experiment `a` to be a mapping", "3"),
        ({"experiments": [A], "settings": ["a"]}, "`settings` in `p` to be a mapping", "['a']"),
        ({"experiments": [A], "settings": {"trainer": [1]}}, "`trainer` in `p` to be a mapping", "[1]"),
        ({"experiments": [A], "settings": {"trainer": "X"}}, "`trainer` in `p` to be a mapping", "X"),
        ({"experiments": [A], "settings": {"trainer": 0}}, "`trainer` in `p` to be a mapping", "0"),
        ({"experiments": [A], "settings": {"model": [1]}}, "`model` in `p` to be a mapping", "[1]"),
        ({"experiments": [A], "groups": "a"}, "`groups` in `p` to be a mapping", "a"),
        ({"experiments": [A], "claims": {"said": "x"}}, "`claims` in `p` to be a list", "{'said': 'x'}"),
        ({"experiments": [A], "metrics": {"val_accuracy": "x"}}, f"only the keys {', '.join(ROLES)} in `metrics`", "`val_accuracy`"),
        ({"experiments": [A], "metrics": {1: "x", "y": "z"}}, f"only the keys {', '.join(ROLES)} in `metrics`", "`1`"),
        *(({"experiments": [A], "threads": threads}, THREADS, str(threads)) for threads in (0, True, 1.5)),
        ({"experiments": [A], "initial_weights": 3}, "`initial_weights` in `p` to be text or null", "3"),
        ({"experiments": [A], "name": "../x"}, "`name` in `p` to name a folder", "../x"),
        ({"experiments": [A], "name": 3}, "`name` in `p` to name a folder", "3"),
        *(({"experiments": [A], "seeds": seeds}, SEEDS, str(seeds)) for seeds in ([], None, 3, [1, 1], [-1], [2**32], [True], [0.5], "012")),
    ],
)  # fmt: skip
def test_a_bad_plan_is_refused_in_one_sentence(content, wanted, found):
    with pytest.raises(InputError) as error:
        read_plan(content, "p")
    assert_sentence(error.value, wanted, found)


def test_a_group_without_a_value_changes_nothing():
    settings = {"trainer": {"max_epochs": 4}, "model": {"output": "softmax"}}
    empty = {"name": "a", "overrides": {"trainer": None, "data": None}}
    plan = read_plan({"settings": settings | {"data": None}, "experiments": [empty]}, "p")
    assert plan.settings == settings
    assert plan["a"].overrides == {}


def test_odd_but_valid_names_are_accepted():
    odd = ["a-b/c_d.e+f", "1", "reports/a", "a/report", "a1/b", "a10/b", "figures2"]
    assert sorted(names(plan_of(*({"name": name} for name in odd)))) == sorted(odd)


def test_new_seeds_are_checked():
    plan = plan_of(A, seeds=[3])
    assert plan.with_seeds([2, 1]).seeds == (2, 1)
    assert plan.with_seeds(iter([7])).experiments == plan.experiments
    with pytest.raises(InputError, match=r"^Expected `--seeds` to be different integers .* got \[1, 1\]"):
        plan.with_seeds([1, 1])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "a plan .* in `{path}`, but got an empty file"),
        ("- a\n- b\n", "a plan .* in `{path}`, but got a list"),
        ("hello", "a plan .* in `{path}`, but got a str"),
        ("a: [1", "`{path}` to be a readable YAML file, but got line \\d, column \\d: "),
        ("a: 2024-13-45", "`{path}` to be a readable YAML file, but got month must be in 1..12"),
        (
            b"\xff\xfe\xfa",
            "`{path}` to be a readable YAML file, but got 'utf-8' codec can't decode byte 0xff in position 0",
        ),
    ],
)
def test_a_file_that_is_not_a_plan_is_refused_in_one_sentence(tmp_path, text, found):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        load_plan(path)
    assert re.fullmatch(f"Expected {found.format(path=re.escape(str(path)))}.*\\. HINT: .*\\.", str(error.value))


def test_a_missing_plan_is_refused_with_the_plans_that_ship(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for source in ("nowhere.yaml", "folder"):
        with pytest.raises(
            InputError,
            match=f"a plan that ships with lit-prune, but got `{source}`.*criteria, full, medium, original, quick, sparse-training",
        ):
            load_plan(source)


class TestBase:
    """A plan that changes another one."""

    CLAIMS = (
        {"said": "low", "contrasts": [{"of": "a", "measure": "epochs", "between": [0, 1]}]},
        {"said": "both", "contrasts": [{"of": ["a", "b"], "measure": "epochs", "between": [0, 1]}]},
    )

    @pytest.fixture(autouse=True)
    def below(self, tmp_path):
        write(
            tmp_path / "below.yaml",
            name="below",
            seeds=[1, 2],
            settings={"data": {"x": 1, "y": 2}, "trainer": {"callbacks": ["X"]}},
            groups={"a": "A", "b": "B"},
            experiments=[A, {"name": "b", "parent": "a"}, C],
            claims=list(self.CLAIMS),
        )

    def test_everything_else_is_kept(self, tmp_path):
        below = load_plan(tmp_path / "below.yaml")
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", name="below"))
        assert plan == below

    def test_settings_are_merged_and_experiments_replaced_or_added(self, tmp_path):
        mine = write(
            tmp_path / "mine.yaml",
            base="below.yaml",
            seeds=[9],
            settings={"data": {"y": 3}, "trainer": {"callbacks+": ["Y"]}},
            groups={"b": "Beta"},
            experiments=[{"name": "b", "train": False}, {"name": "d"}],
            claims=[{"said": "low", "contrasts": [{"of": "d", "measure": "epochs", "between": [2, 3]}]}],
        )
        plan = load_plan(mine)
        assert plan.seeds == (9,)
        assert plan.settings == {"data": {"x": 1, "y": 3}, "trainer": {"callbacks": ["X", "Y"]}}
        assert plan.groups == {"a": "A", "b": "Beta"}
        assert names(plan) == ["a", "b", "c", "d"]
        assert (plan["b"].parent, plan["b"].train) == (None, False)
        assert [(claim.said, claim.contrasts[0].of) for claim in plan.claims] == [("low", "d"), ("both", "a")]

    def test_its_name_and_folder_are_its_own(self, tmp_path):
        assert load_plan(write(tmp_path / "mine.yaml", base="below.yaml")).name == "mine"
        assert load_plan(write(tmp_path / "mine.yaml", base="original", name="given")).name == "given"

    def test_only_keeps_ancestors_and_the_claims_that_can_be_tested(self, tmp_path):
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["b"]))
        assert names(plan) == ["a", "b"]
        assert [claim.said for claim in plan.claims] == ["low", "both"]
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["a"]))
        assert [(c.said, [k.of for k in c.contrasts]) for c in plan.claims] == [("low", ["a"]), ("both", ["a"])]
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["c"]))
        assert (names(plan), plan.claims) == (["c"], ())

    @pytest.mark.parametrize(
        ("only", "wanted", "found"),
        [("task*", "`only` in `{path}` to be a list", "task*"), (["x"], "`only` to match an experiment", "`x`")],
    )
    def test_an_unusable_only_is_refused(self, tmp_path, only, wanted, found):
        path = write(tmp_path / "mine.yaml", base="below.yaml", only=only)
        with pytest.raises(InputError) as error:
            load_plan(path)
        assert_sentence(error.value, wanted.format(path=path), found)

    def test_a_base_is_a_file_next_to_its_plan_or_a_plan_that_ships(self, tmp_path, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert names(load_plan(write(tmp_path / "mine.yaml", base="below.yaml"))) == ["a", "b", "c"]
        assert names(load_plan(write(tmp_path / "mine.yaml", base="quick"))) == names(load_plan("quick"))

    @pytest.mark.parametrize("bases", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "c", "b"]])
    def test_a_cycle_of_bases_is_refused(self, tmp_path, bases):
        for name, base in zip("abc", bases, strict=False):
            write(tmp_path / f"{name}.yaml", base=f"{base}.yaml", experiments=[A])
        with pytest.raises(InputError) as error:
            load_plan(tmp_path / "a.yaml")
        assert_sentence(error.value, "a cycle of `base`", f"`{tmp_path / bases[-1]}.yaml`, which leads to itself")

    def test_a_missing_base_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="a plan that ships with lit-prune, but got `nowhere`"):
            load_plan(write(tmp_path / "mine.yaml", base="nowhere"))


def test_a_file_named_like_a_shipped_plan_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = load_plan("full")
    for name in ("original", "full"):
        write(tmp_path / name, experiments=[A])
    assert load_plan("full") == whole
    assert names(load_plan("./full")) == ["a"]


def test_the_plans_that_ship():
    counts = {name: len(load_plan(name).experiments) for name in shipped_plans()}
    assert counts == {
        "criteria": 40, "full": 31, "medium": 30, "original": 21, "quick": 11, "sparse-training": 7
    }  # fmt: skip


@pytest.mark.parametrize("name", shipped_plans())
def test_a_shipped_plan_survives_a_round_trip(name):
    plan = load_plan(name)
    assert plan.name == name
    assert plan.claims
    assert set(plan.groups) >= {experiment.name.split("/")[0] for experiment in plan.experiments}
    assert read_plan(yaml.safe_load(yaml.safe_dump(plan.as_dict())), "p") == plan
