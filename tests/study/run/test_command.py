"""`lit-prune study` before anything trains: bad input, `--dry_run`, `--help`."""

# ruff: noqa: E501 - one line for each case

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from lit_prune.errors import InputError
from lit_prune.study.plan.loading import load_plan
from lit_prune.study.plan.stored import check_folder, store_plan
from tests.training.conftest import run as run  # the fixture

SETTINGS = {"data": {"source": "synthetic", "limit_train": 64, "val_size": 20, "batch_size": 16}}
EXPERIMENTS = [{"name": "a/base"}, {"name": "a/child", "parent": "a/base", "train": False}, {"name": "b"}]


@pytest.fixture
def write(run):
    """Write a plan into the folder in which the command runs."""

    def write(name: str = "tiny.yaml", **keys: Any) -> None:
        content = {"name": "tiny", "settings": SETTINGS, "initial_weights": "random", "experiments": EXPERIMENTS}
        Path(name).write_text(yaml.safe_dump(content | {"settings": SETTINGS} | keys), encoding="utf-8")

    write()
    return write


def tree() -> set[Path]:
    return set(Path().rglob("*"))


@pytest.mark.parametrize(
    ("argv", "phrase"),
    [
        ([], "but got neither. HINT: write `lit-prune study PLAN.yaml`, with the plan before the options, or `--preset` with criteria, full, medium, original, quick, sparse-training."),
        (["nowhere.yaml"], "a plan that ships with lit-prune, but got `nowhere.yaml`."),
        (["--preset=quik"], "`quik`. HINT: did you mean `quick`."),
        (["tiny.yaml", "--only", "c*"], "`--only` to match an experiment, but got `c*`."),
        (["tiny.yaml", "--seeds", "1", "1"], "`--seeds` to be different integers in [0, 2^32), but got [1, 1]."),
        (["tiny.yaml", "--data.sorce=cifar10"], "In `a/base`: Expected a known option, but got `--data.sorce`. HINT: did you mean `--data.source`."),
        (["tiny.yaml", "--trainer.logger=false"], "In `a/base`: Expected no `trainer.logger` in the settings of a study, but got False."),
        (["tiny.yaml", "--weights=nowhere.pt"], "`nowhere.pt`"),
        (["broken.yaml"], "in `{here}/broken.yaml`, but got a list."),
        (["tiny.yaml", "--out", "other"], "`other` to be new, empty or this study's folder, but got a folder with other files."),
        (["tiny.yaml", "--out", "foreign", "--max_epochs=3"], "at least one experiment in `foreign/plan.yaml`, but got none."),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_in_one_sentence_and_leaves_no_file(run, write, argv, phrase):
    Path("broken.yaml").write_text("- a\n")
    for folder in ("other", "foreign"):
        Path(folder).mkdir()
    Path("other/file.txt").touch()
    Path("foreign/plan.yaml").write_text("name: x\n")
    before = tree()
    answer = run("study", *argv)
    assert answer.status == 2
    assert phrase.replace("{here}", str(Path.cwd())) in answer.complaint
    assert {path for path in tree() - before if path.name != ".lock"} == set()


@pytest.mark.parametrize("dry_run", [[], ["--dry_run"]])
def test_a_folder_of_another_plan_is_refused_with_the_difference(run, write, dry_run):
    store_plan(load_plan("tiny.yaml"), Path("out"))
    answer = run("study", "tiny.yaml", "--out", "out", "--max_epochs", "7", *dry_run)
    assert answer.status == 2
    changed = "`settings.trainer.max_epochs`"
    assert f"no {changed}, as in the plan of the study in `out`, but got {changed} 7." in answer.complaint


def test_a_folder_is_for_one_study_at_a_time(run, write):
    from filelock import FileLock

    Path("out").mkdir()
    with FileLock("out/.lock"):
        answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 2
    assert answer.complaint == "Another `lit-prune study` is running in `out`. Wait until it has finished, or stop it."


def test_an_out_that_is_a_file_is_refused(run, write):
    Path("out").write_text("text")
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 2
    assert "`--out` to be a folder, but got the file `out`." in answer.complaint
    assert Path("out").read_text() == "text"


def test_a_dry_run_prints_the_runs_and_does_nothing(run, write):
    before = tree()
    answer = run("study", "tiny.yaml", "--seeds", "0", "4", "--max_epochs", "5", "--jobs", "2", "--dry_run")
    assert answer.status == 0
    lines = answer.out.splitlines()
    assert lines[:4] == [
        "tiny: 3 experiments, seeds 0, 4, in lightning_logs/tiny",
        "  a/base      5 epochs  from random weights",
        "  a/child    no epochs  from a/base",
        "  b           5 epochs  from random weights",
    ]
    # two seeds of five epochs, none and five
    assert re.fullmatch(r"6 runs to do, 20 epochs, about \d+ min on this machine with 2 runs at a time\.", lines[4])
    assert len(lines) == 5
    assert tree() == before


def test_a_dry_run_counts_selected_runs_that_are_not_complete(run, write):
    store_plan(load_plan("tiny.yaml"), Path("out"))
    folder = Path("out/a/base/seed=0")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    answer = run("study", "tiny.yaml", "--out", "out", "--only", "a/child", "--dry_run")
    assert answer.out.splitlines()[0] == "tiny: 2 experiments, seeds 0, in out"
    assert answer.out.splitlines()[-1].startswith("1 run to do, 0 epochs, about ")


def test_a_study_may_share_the_folder_of_runs_with_its_name(run, write):
    Path("lightning_logs/tiny/version_0").mkdir(parents=True)  # as `lit-prune fit --name tiny` does
    folder = Path("lightning_logs/tiny")
    assert check_folder(load_plan("tiny.yaml"), folder) is None
    (folder / "version_zero").mkdir()
    with pytest.raises(InputError, match="but got a folder with other files"):
        check_folder(load_plan("tiny.yaml"), folder)


def test_a_dry_run_of_a_custom_model_has_no_estimate(run, write):
    Path("theirs.py").write_text("from lightning.pytorch.demos.boring_classes import BoringModel as Theirs\n")
    write("theirs.yaml", settings={"model": {"class_path": "theirs.Theirs"}}, initial_weights=None)
    answer = run("study", "theirs.yaml", "--dry_run", "--max_epochs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[1:] == [
        "  a/base      2 epochs  from weights that the model class creates",
        "  a/child    no epochs  from a/base",
        "  b           2 epochs  from weights that the model class creates",
        "3 runs to do, 4 epochs.",
    ]


def test_a_dry_run_with_custom_data_has_no_estimate(run, write):
    Path("their_data.py").write_text(
        "from lightning.pytorch.demos.boring_classes import BoringDataModule as TheirData\n"
    )
    write("theirs.yaml", settings={"data": "their_data.TheirData"})
    answer = run("study", "theirs.yaml", "--dry_run", "--max_epochs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[-1] == "3 runs to do, 4 epochs."


def test_help_and_a_wrong_plan_need_no_torch():
    code = (
        "import sys; from lit_prune.main import main; status = main(sys.argv[1:]); "
        "print(status, sorted(m for m in ('torch', 'lightning', 'ray') if m in sys.modules))"
    )
    for argv, status in ((["--help"], 0), (["--preset", "quik"], 2), (["--preset", "quick", "--only", "x"], 2)):
        answer = subprocess.run(
            [sys.executable, "-c", code, "study", *argv], capture_output=True, text=True, check=True
        )
        assert answer.stdout.splitlines()[-1] == f"{status} []", argv


@pytest.fixture
def offline(write, monkeypatch):
    """A plan that starts from ImageNet weights, on a machine without a network; returns the attempted downloads."""
    from torchvision.models import ResNet18_Weights

    attempts: list[str] = []

    def fail(self: Any, *args: Any, **options: Any) -> None:
        attempts.append(self.url)
        raise OSError("Name or service not known")

    monkeypatch.setattr(ResNet18_Weights, "get_state_dict", fail)
    write(initial_weights="IMAGENET1K_V1")
    return attempts


def test_without_a_network_a_study_stops_and_names_the_option_for_random_weights(run, offline):
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 2
    assert "Cannot download https://" in answer.complaint
    assert answer.complaint.endswith("For a study, these options are `--weights FILE` and `--weights random`.")
    assert len(offline) == 1
    assert not Path("out").exists()


def test_a_dry_run_downloads_nothing(run, offline):
    answer = run("study", "tiny.yaml", "--dry_run")
    assert answer.status == 0, answer.err
    assert "from IMAGENET1K_V1 weights" in answer.out
    assert offline == []


def test_random_weights_need_no_network(run, offline):
    answer = run("study", "tiny.yaml", "--weights", "random", "--dry_run")
    assert answer.status == 0, answer.err
    assert "from random weights" in answer.out
    assert offline == []
