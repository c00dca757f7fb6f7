"""`find_custom_classes` tells whether a command uses a custom model or custom data."""

import sys

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.training.custom_classes import find_custom_classes


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
        ([], (None, None)),
        (["--model", "my.Model"], ("my.Model", None)),
        (["--model=my.Model"], ("my.Model", None)),
        (["--model.class_path", "my.Model", "--data.init_args.x=3"], ("my.Model", None)),
        (["--data.class_path=my.Data"], (None, "my.Data")),
        (["--data", "my.Data", "--model", "my.Model"], ("my.Model", "my.Data")),
        (["--model.output=logits", "--data.source=synthetic"], (None, None)),
        (["--model.optimizer=SGD", "--model.optimizer.class_path=SGD"], (None, None)),
        (["--modelling=x"], (None, None)),
    ],
)
def test_options_choose_a_class(argv, chosen):
    assert find_custom_classes(["fit", *argv]) == chosen


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ({"model": {"class_path": "my.Model", "init_args": {"x": 1}}}, ("my.Model", None)),
        ({"model": "my.Model"}, ("my.Model", None)),
        ({"data": "my.Data", "model": {"output": "logits"}}, (None, "my.Data")),
        ({"model": {"optimizer": {"class_path": "SGD"}}}, (None, None)),
        ({"model": None, "trainer": {"callbacks": [{"class_path": "X"}]}}, (None, None)),
        ([1], (None, None)),
        ("", (None, None)),
    ],
)
@pytest.mark.parametrize("form", ["--config PATH", "--config=PATH", "-c PATH", "environment"])
def test_configurations_choose_a_class(config, monkeypatch, content, chosen, form):
    path = config(content)
    argv = form.replace("PATH", path).split()
    if form == "environment":
        argv = []
        monkeypatch.setenv("LIT_PRUNE_FIT__CONFIG", path)
        assert find_custom_classes(["test"]) == (None, None)  # the variable belongs to another command
    assert find_custom_classes(["fit", *argv]) == chosen


def test_each_of_two_configurations_can_choose_a_class(config):
    plain = config({"data": {"source": "synthetic"}}, "plain.yaml")
    chosen = config({"model": "my.Model"}, "chosen.yaml")
    for first, second in ((plain, chosen), (chosen, plain)):
        assert find_custom_classes(["fit", "--config", first, "--config", second]) == ("my.Model", None)


def test_the_last_class_wins(config):
    path = config({"model": {"class_path": "my.Model"}, "data": "my.Data"})
    assert find_custom_classes(["fit", "--model=other.Model", "--config", path]) == ("my.Model", "my.Data")
    assert find_custom_classes(["fit", "--config", path, "--model.class_path", "other.Model"])[0] == "other.Model"


@pytest.mark.parametrize("value", ["quick", "original"])
def test_shipped_configurations_use_our_classes(value):
    assert find_custom_classes(["fit", "--config", value]) == (None, None)


def test_a_configuration_that_does_not_exist_is_refused():
    with pytest.raises(InputError, match=r"`nowhere\.yaml`"):
        find_custom_classes(["fit", "--config", "nowhere.yaml"])


def test_broken_yaml_is_named(config):
    with pytest.raises(InputError, match=r"`.*run\.yaml` \(line 2, column 1: "):
        find_custom_classes(["fit", "--config", config("a: [\n")])


@pytest.mark.parametrize("argv", [["--data=null"], ["--model", "null"], ["--model.class_path", "None"]])
def test_null_is_no_class(argv):
    with pytest.raises(InputError, match=r"to name a class, but got `(null|None)`"):
        find_custom_classes(["prune", "x.ckpt", *argv])


def test_an_option_without_its_value_is_left_to_the_parser():
    assert find_custom_classes(["fit", "--config"]) == (None, None)
    assert find_custom_classes([]) == (None, None)


def test_the_current_folder_is_importable_once_a_class_is_chosen(tmp_path):
    sys.path[:] = [entry for entry in sys.path if entry not in ("", str(tmp_path))]
    find_custom_classes(["fit", "--model.output=logits"])
    assert str(tmp_path) not in sys.path
    for _ in range(2):
        find_custom_classes(["fit", "--model=my.Model"])
    assert sys.path.count(str(tmp_path)) == 1
