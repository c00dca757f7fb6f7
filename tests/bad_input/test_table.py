"""Every case of the table, as a person sees it: one sentence, an exit status, no traceback, nothing else on disk."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from inspect import isabstract
from pathlib import Path

import pytest
from PIL import Image

import lit_prune.callbacks
from lit_prune.cli.main import COMMANDS
from tests.bad_input.conftest import listing
from tests.bad_input.table import CASES, Case, filled
from tests.cli.conftest import TINY, Outcome, Run
from tests.faults.conftest import Disk
from tests.faults.conftest import disk as disk  # the fixture
from tests.study.folders import make_study

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
# what keeps a training short, should a wrong command be taken for a right one
SHORT = {
    "fit": [*TINY, "--trainer.max_epochs=1"],
    "validate": QUIET,
    "test": QUIET,
    "predict": QUIET,
}
SENTENCE = re.compile(r"(In `[^`]*`: )?Expected .+, but got .+\. HINT: .+\.")


@pytest.fixture
def locked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image that may not be read."""
    path = tmp_path_factory.mktemp("locked") / "image.png"
    Image.new("RGB", (40, 40)).save(path)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("root may read every file")
    return path


@pytest.fixture
def read_only(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder that nobody can write to, with a study in it."""
    if os.geteuid() == 0:  # whom permissions do not stop
        disk: Disk = request.getfixturevalue("disk")
        make_study(disk.folder / "study")
        disk.freeze()
        yield disk.folder
        return
    folder = tmp_path_factory.mktemp("read-only")
    make_study(folder / "study")
    for place in (folder, folder / "study"):
        place.chmod(0o500)
    yield folder
    for place in (folder, folder / "study"):
        place.chmod(0o700)


@pytest.fixture
def places(request: pytest.FixtureRequest, files: Path) -> Callable[[Case], dict[str, str]]:
    """What the names in a case stand for; only what it names is made."""

    def find(case: Case) -> dict[str, str]:
        text = " ".join(case.words)
        found = {"{files}": str(files)}
        if "{locked}" in text:
            found["{locked}"] = str(request.getfixturevalue("locked"))
        if "{readonly" in text:
            folder = request.getfixturevalue("read_only")
            found |= {"{readonly}": str(folder), "{readonly-study}": str(folder / "study")}
        return found

    return find


def in_process(words: list[str]) -> Outcome:
    """Run a command as a shell would."""
    # a mistake that kills the process is one too, and must not take the tests with it
    done = subprocess.run([sys.executable, "-m", "lit_prune", *words], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def check(run: Run, case: Case, known: dict[str, str], places: dict[str, str]) -> None:
    words = [filled(word, places) for word in case.words]
    words[1:1] = SHORT.get(case.words[0], []) if case.words else []
    before = listing(Path())
    answer = in_process(words) if case.process else run(*words)
    pattern = ".*".join(re.escape(filled(part, places)) for part in case.sentence.split("{...}"))
    assert re.fullmatch(pattern, answer.complaint), answer.complaint
    assert SENTENCE.fullmatch(answer.complaint)
    assert answer.complaint.count("HINT") == 1
    assert answer.status == case.status
    after = {name: said for name, said in listing(Path()).items() if Path(name).parts[0] != case.leaves}
    assert after == before
    assert listing(Path(places["{files}"])) == known


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_mistake_is_one_sentence(run, case, known_files, places):
    check(run, case, known_files, places(case))


def test_the_table_is_about_every_command_and_callback():
    words = [case.words for case in CASES]
    assert len(CASES) >= 400
    assert len(set(words)) == len(words)
    for command in COMMANDS:
        assert sum(bool(case) and case[0] == command for case in words) >= 5, command
    for name in lit_prune.callbacks.__all__:
        if isabstract(getattr(lit_prune.callbacks, name)):
            continue  # a base for callbacks of others
        assert sum(f"--trainer.callbacks+={name}" in case for case in words) >= 6, name
    assert sum(case.process for case in CASES) >= 8


def test_the_later_of_two_values_counts(run):
    """As everywhere: a script that adds an option to a command may overrule one."""
    answer = run("fit", "--data.val_size=3", "--data.val_size=4", "--print_config")
    assert answer.status == 0
    assert "val_size: 4" in answer.out


def test_long_words_are_shown_short(run, files):
    long = [case for case in CASES if any("{long}" in word or "{many}" in word for word in case.words)]
    assert len(long) >= 10
    assert all(len(case.sentence) < 500 for case in long)
