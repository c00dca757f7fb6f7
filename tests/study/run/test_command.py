"""`lit-prune study` before anything trains: bad input, `--dry_run`, `--help`."""

# ruff: noqa: E501 - sentences, as a person sees them

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.training.conftest import run as run  # the fixture

SETTINGS = {"data": {"source": "synthetic", "limit_train": 64, "val_size": 20, "batch_size": 16}}
EXPERIMENTS = [{"name": "a/base"}, {"name": "a/child", "parent": "a/base", "train": False}, {"name": "b"}]


@pytest.fixture
def write(run):
    """Write a plan beside where the command runs."""

    def write(name: str = "tiny.yaml", **keys: Any) -> None:
        content = {"name": "tiny", "settings": SETTINGS, "initial_weights": "random", "experiments": EXPERIMENTS}
        Path(name).write_text(yaml.safe_dump(content | {"settings": SETTINGS} | keys), encoding="utf-8")

    write()
    return write


def tree() -> set[Path]:
    return set(Path().rglob("*"))


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "Expected a plan's file or `--preset`, but got neither. HINT: presets are full, original, quick, reduced."),
        (["nowhere.yaml"], "Expected a YAML file or a plan that ships, but got `nowhere.yaml`. HINT: those that ship are full, original, quick, reduced."),
        (["--preset=quik"], "Expected `--preset` to be one of full, original, quick, reduced, but got `quik`. HINT: did you mean `quick`."),
        (["tiny.yaml", "--only", "c*"], "Expected `--only` to match an experiment, but got `c*`. HINT: there are a/base, a/child, b."),
        (["tiny.yaml", "--seeds", "1", "1"], "Expected `seeds` in `--seeds` to be different whole numbers from 0 on, but got [1, 1]. HINT: for example 0 1 2."),
        (["tiny.yaml", "--data.sorce=cifar10"], "In `a/base`: Expected a known option, but got `--data.sorce`. HINT: did you mean `--data.source`."),
        (["tiny.yaml", "--trainer.logger=false"], "In `a/base`: Expected no `trainer.logger` in a study, but got False. HINT: the report reads what the study's own loggers write."),
        (["tiny.yaml", "--weights=nowhere.pt"], "Expected the path of a file with weights, but got `nowhere.pt`, where there is no file. HINT: check the path."),
        (["broken.yaml"], "Expected a plan by keys (`experiments: [...]`) in `{here}/broken.yaml`, but got a list. HINT: see the plans that ship."),
        (["tiny.yaml", "--out", "other"], "Expected a new or empty folder, or that of this study, at `other`, but got other files. HINT: give another `--out`."),
        (["tiny.yaml", "--out", "foreign", "--max_epochs=3"], "Expected at least one experiment in `foreign/plan.yaml`, but got none. HINT: `experiments` is a list of names and overrides."),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence_and_nothing_is_left(run, write, argv, sentence):
    Path("broken.yaml").write_text("- a\n")
    for folder in ("other", "foreign"):
        Path(folder).mkdir()
    Path("other/file.txt").touch()
    Path("foreign/plan.yaml").write_text("name: x\n")
    before = tree()
    answer = run("study", *argv)
    assert answer.status == 2
    assert answer.complaint == sentence.replace("{here}", str(Path.cwd()))
    assert {path for path in tree() - before if path.name != ".lock"} == set()


def test_a_folder_of_another_plan_is_refused_by_the_difference(run, write):
    from lit_prune.study.plan.plan import load_plan
    from lit_prune.study.plan.stored import store_plan

    store_plan(load_plan("tiny.yaml"), Path("out"))
    answer = run("study", "tiny.yaml", "--out", "out", "--max_epochs", "7")
    assert (answer.status, answer.complaint) == (
        2,
        "Expected the plan that made `out`, with no `settings.trainer.max_epochs`, but got "
        "`settings.trainer.max_epochs` 7. HINT: give another `--out`, or the settings of then.",
    )


def test_a_folder_is_for_one_study_at_a_time(run, write):
    from filelock import FileLock

    Path("out").mkdir()
    with FileLock("out/.lock"):
        answer = run("study", "tiny.yaml", "--out", "out")
    assert (answer.status, answer.complaint) == (
        2,
        "Expected `out` for this study alone, but got another one that runs in it. HINT: wait for it, or end it.",
    )


def test_an_out_that_is_a_file_is_one_sentence(run, write):
    Path("out").write_text("text")
    answer = run("study", "tiny.yaml", "--out", "out")
    assert answer.status == 2
    assert answer.complaint == "Expected `--out` to be a folder, but got the file `out`. HINT: give another."
    assert Path("out").read_text() == "text"


def test_a_dry_run_tells_what_would_be_done_and_does_nothing(run, write):
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
    # two seeds of five epochs, one and five
    assert re.fullmatch(r"6 runs to do, 22 epochs, about \d+ min on this machine with 2 at once\.", lines[4])
    assert len(lines) == 5
    assert tree() == before


def test_a_dry_run_counts_only_what_is_chosen_and_not_complete(run, write):
    folder = Path("out/a/base/seed=0")
    folder.mkdir(parents=True)
    (folder / "result.json").write_text("{}")
    answer = run("study", "tiny.yaml", "--out", "out", "--only", "a/child", "--max_epochs", "5", "--dry_run")
    assert answer.out.splitlines()[0] == "tiny: 2 experiments, seeds 0, in out"
    assert answer.out.splitlines()[-1].startswith("1 runs to do, 1 epochs, about ")


def test_a_dry_run_of_somebody_elses_model_makes_no_guess(run, write):
    Path("theirs.py").write_text("from lightning.pytorch.demos.boring_classes import BoringModel as Theirs\n")
    write("theirs.yaml", settings={"model": {"class_path": "theirs.Theirs"}}, initial_weights=None)
    answer = run("study", "theirs.yaml", "--dry_run", "--max_epochs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[1:] == [
        "  a/base      2 epochs  from its own weights",
        "  a/child    no epochs  from a/base",
        "  b           2 epochs  from its own weights",
        "3 runs to do, 5 epochs.",
    ]


def test_data_by_its_class_alone_makes_no_guess(run, write):
    Path("their_data.py").write_text(
        "from lightning.pytorch.demos.boring_classes import BoringDataModule as TheirData\n"
    )
    write("theirs.yaml", settings={"data": "their_data.TheirData"})
    answer = run("study", "theirs.yaml", "--dry_run", "--max_epochs", "2")
    assert answer.status == 0, answer.err
    assert answer.out.splitlines()[-1] == "3 runs to do, 5 epochs."


def test_help_needs_no_torch_and_neither_does_a_wrong_plan():
    code = (
        "import sys; from lit_prune.main import main; status = main(sys.argv[1:]); "
        "print(status, sorted(m for m in ('torch', 'lightning', 'jsonargparse', 'ray') if m in sys.modules))"
    )
    for argv, status in ((["--help"], 0), (["--preset", "quik"], 2), (["--preset", "quick", "--only", "x"], 2)):
        answer = subprocess.run(
            [sys.executable, "-c", code, "study", *argv], capture_output=True, text=True, check=True
        )
        assert answer.stdout.splitlines()[-1] == f"{status} []", argv
