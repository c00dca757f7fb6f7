"""What YAML files make a command import: `report` nothing, `fit` and `study` all that they name."""

import sys
from pathlib import Path

import pytest
import yaml

from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.stored import store_plan
from tests.training.conftest import TINY

CALL = {"class_path": "evil.X", "init_args": {"command": "touch canary"}}
EVERYWHERE = {
    "settings": {
        "model": {"class_path": "evil.X", "init_args": {"optimizer": CALL}},
        "data": {"class_path": "evil.X"},
        "trainer": {"callbacks": [CALL], "strategy": CALL, "logger": CALL},
    },
    "experiments": [
        {"name": "task1/a", "overrides": {"trainer": {"callbacks+": [CALL]}, "model": "evil.X"}},
        {"name": "task1/b", "parent": "task1/a", "overrides": {"data": {"class_path": "evil.Y"}}},
    ],
    "groups": {"task1": "evil.X"},
    "initial_weights": "evil.pt",
}


@pytest.fixture(autouse=True)
def evil(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Put a module into the current folder, which this process does not search for modules yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    Path("evil.py").write_text(f"open({str(tmp_path / 'canary')!r}, 'w').close()\nclass X: pass\n")


@pytest.mark.parametrize("within_reach", [False, True])
def test_a_report_imports_nothing_that_a_plan_names(run, tmp_path, monkeypatch, within_reach):
    if within_reach:
        monkeypatch.syspath_prepend(str(tmp_path))
    Path("plan.yaml").write_text(yaml.safe_dump(EVERYWHERE))
    store_plan(load_plan("plan.yaml"), Path("study"))
    answer = run("report", "study")
    assert answer.status == 0
    assert Path("study/report.md").is_file()
    assert "evil" not in sys.modules
    assert not Path("canary").exists()


@pytest.mark.parametrize("group", ["model", "data"])
def test_a_class_of_the_current_folder_can_be_the_model_or_the_data(run, group):
    """This is why a YAML file that you have not read must not be run, not even with `--dry_run`."""
    Path("evil.yaml").write_text(yaml.safe_dump({group: {"class_path": "evil.X"}}))
    answer = run("fit", *TINY[4:], "--config=evil.yaml", "--print_config")
    assert answer.status == 2
    assert Path("canary").exists()


def test_otherwise_the_current_folder_is_not_searched(run):
    Path("evil.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [CALL]}, "model": {"optimizer": CALL}}))
    assert run("fit", *TINY, "--config=evil.yaml").status == 2
    assert not Path("canary").exists()


def test_a_configuration_can_call_whatever_is_installed(run):
    """The parser accepts any function as an optimizer."""
    call = {"class_path": "tests.safety.gadgets.touch", "init_args": {"path": "canary"}}
    Path("evil.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [call]}}))
    assert run("fit", *TINY, "--config=evil.yaml").status == 2
    assert not Path("canary").exists()  # which the run never calls
    Path("evil.yaml").write_text(yaml.safe_dump({"model": {"optimizer": call}}))
    assert run("fit", *TINY, "--config=evil.yaml").status == 2
    assert Path("canary").exists()


@pytest.mark.parametrize("name", ["os.system", "subprocess.Popen", "builtins.exec"])
def test_functions_that_run_commands_are_refused_as_optimizers(run, name):
    """Jsonargparse would only warn about functions that it knows as dangerous; here they are refused."""
    answer = run("fit", *TINY, f"--model.optimizer={name}")
    assert answer.status == 2
    assert answer.complaint.startswith(f"Expected `--model.optimizer` to name an optimizer, but got `{name}`.")


def test_a_study_imports_what_its_plan_names_before_it_runs(run):
    Path("plan.yaml").write_text(yaml.safe_dump({"settings": {"model": "evil.X"}, "experiments": [{"name": "a"}]}))
    assert run("study", "plan.yaml", "--dry_run").status == 2
    assert Path("canary").exists()
