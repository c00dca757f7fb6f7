"""Plans of studies: what is read, what is refused, and those that ship."""

# ruff: noqa: E501 - sentences, as a person sees them

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lit_prune.errors import InputError
from lit_prune.study.measures import MEASURES
from lit_prune.study.plan.plan import ROLES, Plan, load_plan, read_plan, select, shipped_plans

A, B, C = ({"name": name} for name in "abc")


def plan_of(*experiments: dict[str, Any], **keys: Any) -> Plan:
    return read_plan({"experiments": list(experiments), **keys}, "p")


def write(path: Path, **content: Any) -> Path:
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return path


def names(plan: Plan) -> list[str]:
    return [experiment.name for experiment in plan.experiments]


@st.composite
def plans(draw: st.DrawFn) -> dict[str, Any]:
    """Plans whose experiments are written in any order, with settings, claims and titles."""
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
def test_a_plan_survives_its_own_words(content):
    plan = read_plan(content, "p")
    assert {key: plan.as_dict()[key] for key in ("seeds", "settings", "threads")} == {
        key: content[key] for key in ("seeds", "settings", "threads")
    }
    assert read_plan(plan.as_dict(), "p") == plan
    assert read_plan(yaml.safe_load(yaml.safe_dump(plan.as_dict())), "p") == plan


@patient
@given(plans())
def test_parents_come_first_and_nothing_is_lost(content):
    plan = read_plan(content, "p")
    written = [item["name"] for item in content["experiments"]]
    assert sorted(names(plan)) == sorted(written)
    for index, experiment in enumerate(plan.experiments):
        assert experiment.parent is None or experiment.parent in names(plan)[:index]
        assert plan[experiment.name] is experiment


@patient
@given(plans(), st.data())
def test_a_selection_has_the_parents_that_it_needs_and_no_more(content, data):
    plan = read_plan(content, "p")
    wanted = data.draw(st.sampled_from(names(plan)))
    needed = [wanted]
    while (parent := plan[needed[-1]].parent) is not None:
        needed.append(parent)
    assert [experiment.name for experiment in select(plan, [wanted])] == [n for n in names(plan) if n in needed]


def test_experiments_stay_as_they_were_written_unless_a_parent_is_later():
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


def test_a_glob_that_matches_nothing_is_one_sentence():
    plan = plan_of(*({"name": f"e{index}"} for index in range(6)))
    sentence = "Expected `--only` to match an experiment, but got `x*`. HINT: there are e0, e1, e2, e3, ...."
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        select(plan, ["e*", "x*"])


def test_defaults_are_those_of_one_plain_run():
    plan = plan_of(A)
    assert plan == Plan("study", plan.experiments, (0,), {}, 1, None, ROLES, {}, ())
    assert (plan["a"].parent, plan["a"].checkpoint, plan["a"].train, plan["a"].overrides) == (None, "last", True, {})
    assert plan.as_dict()["experiments"] == [{"name": "a"}]


def test_identity_is_what_decides_numbers():
    plan = plan_of(A)
    same = plan_of(A, seeds=[5], groups={"a": "Title"}, name="other", metrics={"val_acc": "acc"})
    assert plan.identity() == same.identity()
    for keys in ({"settings": {"data": {"x": 1}}}, {"threads": 2}, {"initial_weights": "random"}):
        assert plan_of(A, **keys).identity() != plan.identity()
    assert plan_of({"name": "a", "train": False}).identity() != plan.identity()


SEEDS = "Expected `seeds` in `p` to be different whole numbers from 0 on, but got {}. HINT: for example 0 1 2."
PLACE = "Expected an experiment's name to be a folder in the study's, but got `{}`. HINT: use letters, digits, - and /."
TAKEN = "Expected an experiment's name to leave the report its files, but got `{}`. HINT: give it another name."
LISTS = "Expected `{}` in `p` to be a list, but got {}. HINT: begin its lines with `-`."
NAMES = "Expected `{}` in `{}` to be names and values, but got {}. HINT: write `name: value`."
PLAN_KEYS = "name, experiments, seeds, settings, threads, initial_weights, metrics, groups, claims"
KEYS = "name, parent, checkpoint, train, overrides"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({}, "Expected at least one experiment in `p`, but got none. HINT: `experiments` is a list of names and overrides."),
        ({"experiments": []}, "Expected at least one experiment in `p`, but got none. HINT: `experiments` is a list of names and overrides."),
        ({"experiments": [A], "sedes": [0]}, f"Expected the plan `p` to have the keys {PLAN_KEYS}, but got `sedes`. HINT: check the spelling."),
        ({"experiments": {"a": {}}}, LISTS.format("experiments", "{'a': {}}")),
        ({"experiments": "a"}, LISTS.format("experiments", "a")),
        ({"experiments": ["a"]}, "Expected experiments with a `name` in `p`, but got a. HINT: each is a mapping of name, parent, overrides."),
        ({"experiments": [{"parent": "a"}]}, "Expected experiments with a `name` in `p`, but got {'parent': 'a'}. HINT: each is a mapping of name, parent, overrides."),
        ({"experiments": [{"name": 3}]}, "Expected experiments with a `name` in `p`, but got {'name': 3}. HINT: each is a mapping of name, parent, overrides."),
        ({"experiments": [{"name": "a", "parents": "b"}]}, f"Expected experiment `a` to have the keys {KEYS}, but got `parents`. HINT: check the spelling."),
        ({"experiments": [A, B, A]}, "Expected experiments with different names, but got `a` twice. HINT: rename one."),
        ({"experiments": [{"name": "a", "parent": "x"}]}, "Expected the parent of `a` to be an experiment, but got `x`. HINT: check the name."),
        ({"experiments": [{"name": "a", "parent": ["b"]}, B]}, "Expected the parent of `a` to be an experiment, but got ['b']. HINT: there can be one."),
        ({"experiments": [{"name": "a", "parent": "a"}]}, "Expected parents that lead to initial weights, but got a cycle, a -> a. HINT: give one of them no parent."),
        ({"experiments": [{"name": "a", "parent": "b"}, {"name": "b", "parent": "c"}, {"name": "c", "parent": "b"}]}, "Expected parents that lead to initial weights, but got a cycle, a -> b -> c -> b. HINT: give one of them no parent."),
        ({"experiments": [{"name": "../x"}]}, PLACE.format("../x")),
        ({"experiments": [{"name": "x/../../y"}]}, PLACE.format("x/../../y")),
        ({"experiments": [{"name": "/x"}]}, PLACE.format("/x")),
        ({"experiments": [{"name": "x/"}]}, PLACE.format("x/")),
        ({"experiments": [{"name": "x//y"}]}, PLACE.format("x//y")),
        ({"experiments": [{"name": ""}]}, PLACE.format("")),
        ({"experiments": [{"name": "x\\y"}]}, PLACE.format("x\\y")),
        ({"experiments": [{"name": "x y"}]}, PLACE.format("x y")),
        ({"experiments": [{"name": ".x"}]}, PLACE.format(".x")),
        ({"experiments": [{"name": "a/seed=0"}]}, PLACE.format("a/seed=0")),
        ({"experiments": [{"name": "report"}]}, TAKEN.format("report")),
        ({"experiments": [{"name": "figures/a"}]}, TAKEN.format("figures/a")),
        ({"experiments": [{"name": "Report/a"}]}, TAKEN.format("Report/a")),
        ({"experiments": [{"name": "plan.yaml"}]}, TAKEN.format("plan.yaml")),
        ({"experiments": [{"name": "a/b"}, A]}, "Expected experiments in folders of their own, but got `a` and `a/b`. HINT: rename one."),
        ({"experiments": [A, {"name": "a/b/c"}]}, "Expected experiments in folders of their own, but got `a` and `a/b/c`. HINT: rename one."),
        ({"experiments": [{"name": "a", "checkpoint": "first"}]}, "Expected `checkpoint` of `a` to be last or best, but got first. HINT: choose one of these."),
        ({"experiments": [{"name": "a", "train": "no"}]}, "Expected `train` of `a` to be true or false, but got no. HINT: choose one of these."),
        ({"experiments": [{"name": "a", "overrides": [1]}]}, NAMES.format("overrides", "a", "[1]")),
        ({"experiments": [{"name": "a", "overrides": {"trainer": 3}}]}, NAMES.format("trainer", "a", "3")),
        ({"experiments": [A], "settings": ["a"]}, NAMES.format("settings", "p", "['a']")),
        ({"experiments": [A], "settings": {"trainer": [1]}}, NAMES.format("trainer", "p", "[1]")),
        ({"experiments": [A], "settings": {"model": [1]}}, NAMES.format("model", "p", "[1]")),
        ({"experiments": [A], "groups": "a"}, NAMES.format("groups", "p", "a")),
        ({"experiments": [A], "claims": {"said": "x"}}, LISTS.format("claims", "{'said': 'x'}")),
        ({"experiments": [A], "metrics": {"val_accuracy": "x"}}, "Expected `metrics` in `p` to name train_loss, train_acc, val_loss, val_acc, test_loss, test_acc, but got `val_accuracy`. HINT: check the name."),
        ({"experiments": [A], "metrics": {1: "x", "y": "z"}}, "Expected `metrics` in `p` to name train_loss, train_acc, val_loss, val_acc, test_loss, test_acc, but got `1`. HINT: check the name."),
        ({"experiments": [A], "threads": 0}, "Expected `threads` in `p` to be a whole number from 1 on, but got 0. HINT: 1 is the fastest by far."),
        ({"experiments": [A], "threads": True}, "Expected `threads` in `p` to be a whole number from 1 on, but got True. HINT: 1 is the fastest by far."),
        ({"experiments": [A], "threads": 1.5}, "Expected `threads` in `p` to be a whole number from 1 on, but got 1.5. HINT: 1 is the fastest by far."),
        ({"experiments": [A], "initial_weights": 3}, "Expected `initial_weights` in `p` to be text or null, but got 3. HINT: give a path or `random`."),
        ({"experiments": [A], "name": "../x"}, "Expected `name` in `p` to be a folder below lightning_logs, but got ../x. HINT: give a plain name."),
        ({"experiments": [A], "name": 3}, "Expected `name` in `p` to be a folder below lightning_logs, but got 3. HINT: give a plain name."),
        ({"experiments": [A], "seeds": []}, SEEDS.format("[]")),
        ({"experiments": [A], "seeds": None}, SEEDS.format("None")),
        ({"experiments": [A], "seeds": 3}, SEEDS.format("3")),
        ({"experiments": [A], "seeds": [1, 1]}, SEEDS.format("[1, 1]")),
        ({"experiments": [A], "seeds": [-1]}, SEEDS.format("[-1]")),
        ({"experiments": [A], "seeds": [2**32]}, SEEDS.format("[4294967296]")),
        ({"experiments": [A], "seeds": [True]}, SEEDS.format("[True]")),
        ({"experiments": [A], "seeds": [0.5]}, SEEDS.format("[0.5]")),
        ({"experiments": [A], "seeds": "012"}, SEEDS.format("012")),
    ],
)  # fmt: skip
def test_a_bad_plan_is_one_sentence(content, sentence):
    with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
        read_plan(content, "p")


def test_names_that_look_odd_are_fine():
    odd = ["a-b/c_d.e+f", "1", "reports/a", "a/report", "a1/b", "a10/b", "figures2"]
    assert sorted(names(plan_of(*({"name": name} for name in odd)))) == sorted(odd)


def test_new_seeds_are_checked_too():
    plan = plan_of(A, seeds=[3])
    assert plan.with_seeds([2, 1]).seeds == (2, 1)
    assert plan.with_seeds(iter([7])).experiments == plan.experiments
    with pytest.raises(
        InputError, match=r"^Expected `seeds` in `--seeds` to be different whole numbers from 0 on, but"
    ):
        plan.with_seeds([1, 1])


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "Expected a plan by keys (`experiments: [...]`) in `{path}`, but got an empty file. HINT: see the plans that ship."),
        ("- a\n- b\n", "Expected a plan by keys (`experiments: [...]`) in `{path}`, but got a list. HINT: see the plans that ship."),
        ("hello", "Expected a plan by keys (`experiments: [...]`) in `{path}`, but got a str. HINT: see the plans that ship."),
        ("a: [1", "Expected `{path}` to hold YAML that can be read, but got while parsing a flow sequence"),
        ("a: 2024-13-45", "Expected `{path}` to hold YAML that can be read, but got month must be in 1..12. HINT: check it."),
        (b"\xff\xfe\xfa", "Expected `{path}` to hold YAML that can be read, but got 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte. HINT: check it."),
    ],
)  # fmt: skip
def test_a_file_that_is_no_plan_is_one_sentence(tmp_path, text, found):
    path = tmp_path / "mine.yaml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as error:
        load_plan(path)
    sentence = str(error.value)
    assert sentence.startswith(found.format(path=path))
    assert sentence.endswith(".")
    assert "\n" not in sentence


def test_a_plan_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for source in ("nowhere.yaml", "folder"):
        sentence = (
            f"Expected a YAML file or a plan that ships, but got `{source}`. "
            "HINT: those that ship are full, original, quick, reduced."
        )
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            load_plan(source)


class TestBase:
    """A plan that says what it changes in another."""

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

    def test_what_it_does_not_name_is_kept(self, tmp_path):
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

    def test_its_name_is_its_own_so_that_its_folder_is(self, tmp_path):
        assert load_plan(write(tmp_path / "mine.yaml", base="below.yaml")).name == "mine"
        assert load_plan(write(tmp_path / "mine.yaml", base="original", name="given")).name == "given"

    def test_only_keeps_parents_and_the_claims_that_can_be_judged(self, tmp_path):
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["b"]))
        assert names(plan) == ["a", "b"]
        assert [claim.said for claim in plan.claims] == ["low", "both"]
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["a"]))
        assert [(c.said, [k.of for k in c.contrasts]) for c in plan.claims] == [("low", ["a"]), ("both", ["a"])]
        plan = load_plan(write(tmp_path / "mine.yaml", base="below.yaml", only=["c"]))
        assert (names(plan), plan.claims) == (["c"], ())

    @pytest.mark.parametrize(
        ("only", "sentence"),
        [
            ("task*", "Expected `only` in `{path}` to be a list, but got task*. HINT: begin its lines with `-`."),
            (["x"], "Expected `only` to match an experiment, but got `x`. HINT: there are a, b, c."),
        ],
    )
    def test_only_that_cannot_be_used_is_one_sentence(self, tmp_path, only, sentence):
        path = write(tmp_path / "mine.yaml", base="below.yaml", only=only)
        with pytest.raises(InputError, match=f"^{re.escape(sentence.format(path=path))}$"):
            load_plan(path)

    def test_a_base_is_found_beside_its_plan_or_among_those_that_ship(self, tmp_path, monkeypatch):
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert names(load_plan(write(tmp_path / "mine.yaml", base="below.yaml"))) == ["a", "b", "c"]
        assert names(load_plan(write(tmp_path / "mine.yaml", base="quick"))) == names(load_plan("quick"))

    @pytest.mark.parametrize("bases", [["a"], ["b", "a"], ["b", "c", "a"], ["b", "c", "b"]])
    def test_bases_that_lead_to_themselves_are_one_sentence(self, tmp_path, bases):
        for name, base in zip("abc", bases, strict=False):
            write(tmp_path / f"{name}.yaml", base=f"{base}.yaml", experiments=[A])
        sentence = (
            f"Expected plans whose `base` leads to an end, but got `{tmp_path / bases[-1]}.yaml`, which leads to itself. "
            "HINT: take one away."
        )
        with pytest.raises(InputError, match=f"^{re.escape(sentence)}$"):
            load_plan(tmp_path / "a.yaml")

    def test_a_base_that_is_not_there_is_one_sentence(self, tmp_path):
        with pytest.raises(InputError, match=r"^Expected a YAML file or a plan that ships, but got `nowhere`\. HINT: "):
            load_plan(write(tmp_path / "mine.yaml", base="nowhere"))


def test_a_file_called_like_a_shipped_plan_does_not_hide_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = load_plan("full")
    for name in ("original", "full"):
        write(tmp_path / name, experiments=[A])
    assert load_plan("full") == whole
    assert names(load_plan("./full")) == ["a"]


def test_the_plans_that_ship():
    assert list(shipped_plans()) == ["full", "original", "quick", "reduced"]
    assert {len(load_plan(name).experiments) for name in ("full", "reduced")} == {31}


@pytest.mark.parametrize("name", shipped_plans())
def test_a_shipped_plan_loads_and_survives_its_own_words(name):
    plan = load_plan(name)
    assert plan.name == name
    assert plan.claims
    assert set(plan.groups) >= {experiment.name.split("/")[0] for experiment in plan.experiments}
    assert read_plan(yaml.safe_load(yaml.safe_dump(plan.as_dict())), "p") == plan
