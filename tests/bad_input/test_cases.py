"""Each case of `cases.py` exits with status 2, prints one line with the expected phrases, and changes no file."""

import shlex
import subprocess
import sys
from inspect import isabstract
from pathlib import Path

import pytest

import lit_prune.callbacks
from lit_prune.main import COMMANDS as NAMES
from tests.bad_input.cases import COMMANDS, CONFIGURATIONS, PLANS, TRAINED, Case
from tests.bad_input.conftest import Refused
from tests.hints import wrong_hints

ALL = [*COMMANDS, *TRAINED]


def argv_of(command: str) -> list[str]:
    """Split a command as a shell would, and expand the short forms of callbacks."""
    long = "--trainer.callbacks"
    return [f"{long}+={w[1:]}" if w[:1] == "+" else f"{long}{w}" if w[:1] == "." else w for w in shlex.split(command)]


def short(case: Case) -> str:
    return case[0].encode("unicode_escape").decode()[:80]


def assert_says(line: str, phrases: tuple[str, ...]) -> None:
    assert len(line) < 1000
    assert line.endswith(".")
    assert [phrase for phrase in phrases if phrase not in line] == [], line


@pytest.mark.parametrize("case", ALL, ids=short)
def test_an_invalid_command_is_a_one_line_error(refused: Refused, files, monkeypatch, case):
    monkeypatch.chdir(files)
    line = refused(*argv_of(case[0]))
    assert_says(line, case[1:])
    command = [*argv_of(case[0]), ""]
    assert wrong_hints(line.partition("HINT: ")[2], command[0] if command[0] in NAMES else None) == []


@pytest.mark.parametrize("case", CONFIGURATIONS, ids=short)
def test_an_invalid_configuration_is_a_one_line_error(refused, case):
    Path("config.yaml").write_text(case[0], encoding="utf-8")
    assert_says(refused("fit", "--config=config.yaml"), case[1:])


@pytest.mark.parametrize("case", PLANS, ids=short)
def test_an_invalid_plan_is_a_one_line_error(refused, case):
    Path("plan.yaml").write_text(case[0], encoding="utf-8")
    assert_says(refused("study", "plan.yaml", "--dry_run"), case[1:])


@pytest.mark.parametrize(
    "command",
    [
        "fot",
        pytest.param("fit --threads=100000", marks=pytest.mark.gate),
        pytest.param("inspect", marks=pytest.mark.slow),
        "study nowhere.yaml",
        "report planless",
    ],
)
def test_a_process_prints_the_same_error_as_main(refused, files, monkeypatch, command):
    monkeypatch.chdir(files)
    done = subprocess.run(
        [sys.executable, "-m", "lit_prune", *argv_of(command)], capture_output=True, text=True, check=False
    )
    # Lightning may log before the error
    assert (done.returncode, done.stderr.splitlines()[-1]) == (2, refused(*argv_of(command)))


def test_every_command_and_callback_has_cases():
    commands = [case[0] for case in ALL]
    assert len(set(commands)) == len(commands)
    for name in NAMES:
        assert sum(argv_of(command)[:1] == [name] for command in commands) >= 5, name
    for name in lit_prune.callbacks.__all__:
        if not isabstract(getattr(lit_prune.callbacks, name)):
            assert sum(f"+{name} " in f"{command} " for command in commands) >= 3, name
    assert all(len(case) > 1 and all(case[1:]) for case in [*ALL, *CONFIGURATIONS, *PLANS])


def test_the_last_value_of_an_option_wins(run):
    answer = run("fit", "--data.val_size=3", "--data.val_size=4", "--print_config")
    assert answer.status == 0
    assert "val_size: 4" in answer.out
