"""Whose model and whose data a command is about."""

import sys

import pytest
import yaml

from lit_prune.training.classes import chosen_classes


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv("LIT_PRUNE_FIT__CONFIG", raising=False)


@pytest.fixture
def config(tmp_path):
    def write(content, name="run.yaml"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else yaml.safe_dump(content), encoding="utf-8")
        return str(path)

    return write


@pytest.mark.parametrize(
    ("argv", "chosen"),
    [
        ([], (False, False)),
        (["--model", "my.Model"], (True, False)),
        (["--model=my.Model"], (True, False)),
        (["--model.class_path", "my.Model", "--data.init_args.x=3"], (True, False)),
        (["--data.class_path=my.Data"], (False, True)),
        (["--data", "my.Data", "--model", "my.Model"], (True, True)),
        (["--model.output=logits", "--data.source=synthetic"], (False, False)),
        (["--model.optimizer=SGD", "--model.optimizer.class_path=SGD"], (False, False)),
        (["--modelling=x"], (False, False)),
    ],
)
def test_options_choose(argv, chosen):
    assert chosen_classes(["fit", *argv]) == chosen


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ({"model": {"class_path": "my.Model", "init_args": {"x": 1}}}, (True, False)),
        ({"model": "my.Model"}, (True, False)),
        ({"data": "my.Data", "model": {"output": "logits"}}, (False, True)),
        ({"model": {"optimizer": {"class_path": "SGD"}}}, (False, False)),
        ({"model": None, "trainer": {"callbacks": [{"class_path": "X"}]}}, (False, False)),
        ([1], (False, False)),
        ("", (False, False)),
        ("a: [", (False, False)),
    ],
)
@pytest.mark.parametrize("form", ["--config PATH", "--config=PATH", "-c PATH", "environment"])
def test_configurations_choose(config, monkeypatch, content, chosen, form):
    path = config(content)
    argv = form.replace("PATH", path).split()
    if form == "environment":
        argv = []
        monkeypatch.setenv("LIT_PRUNE_FIT__CONFIG", path)
        assert chosen_classes(["test"]) == (False, False)  # it is for another command
    assert chosen_classes(["fit", *argv]) == chosen


def test_the_second_of_two_configurations_counts_too(config):
    plain = config({"data": {"source": "synthetic"}}, "plain.yaml")
    chosen = config({"model": "my.Model"}, "chosen.yaml")
    for first, second in ((plain, chosen), (chosen, plain)):
        assert chosen_classes(["fit", "--config", first, "--config", second]) == (True, False)


@pytest.mark.parametrize("value", ["nowhere.yaml", "quick", "original"])
def test_what_is_missing_is_the_parsers_to_complain_about_and_what_ships_is_ours(value):
    assert chosen_classes(["fit", "--config", value]) == (False, False)


def test_a_word_without_its_value_is_no_mistake_here():
    assert chosen_classes(["fit", "--config"]) == (False, False)
    assert chosen_classes([]) == (False, False)


def test_classes_in_the_current_folder_can_be_imported_once_one_is_chosen(tmp_path):
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    chosen_classes(["fit", "--model.output=logits"])
    assert str(tmp_path) not in sys.path
    for _ in range(2):
        chosen_classes(["fit", "--model=my.Model"])
    assert sys.path.count(str(tmp_path)) == 1
