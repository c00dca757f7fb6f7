"""The command line: commands, version, help."""

import resource
import subprocess
import sys

import pytest

import lit_prune
from tests.training.conftest import run as run  # the fixture


def test_version_needs_no_torch():
    code = (
        "import sys; from lit_prune.main import main; status = main(['--version']); "
        "sys.exit(status or any(m in sys.modules for m in ('torch', 'lightning', 'numpy', 'jsonargparse')))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (answer.returncode, answer.stdout) == (0, f"lit-prune {lit_prune.__version__}\n")


def test_version_is_quick():
    def seconds_of_children() -> float:
        """Return the processor time of child processes, which other work on the machine does not change."""
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        return used.ru_utime + used.ru_stime

    seconds = []
    for _ in range(5):
        start = seconds_of_children()
        subprocess.run([sys.executable, "-m", "lit_prune", "--version"], check=True, capture_output=True)
        seconds.append(seconds_of_children() - start)
    assert min(seconds) < 0.5


def test_help_lists_every_command(run):
    answer = run("--help")
    assert answer.status == 0
    listed = answer.out.partition("commands:\n")[2].partition("\n\n")[0].splitlines()
    trained = ["inspect", "prune", "sensitivity", "shrink", "export", "cost"]
    assert [line.split()[0] for line in listed] == ["fit", "validate", "test", "predict", *trained, "study", "report"]


def test_no_command_prints_the_usage_and_fails(run):
    answer = run()
    assert answer.status == 2
    assert answer.out.startswith("usage: lit-prune COMMAND")


@pytest.mark.parametrize(
    ("word", "hint"),
    [
        ("ft", "did you mean `lit-prune fit`"),
        ("studie", "did you mean `lit-prune study`"),
        ("xyzzy", "`lit-prune --help` describes each command"),
    ],
)
def test_an_unknown_command_is_reported_in_one_sentence(run, word, hint):
    answer = run(word, "--data.val_size=3")
    assert answer.status == 2
    assert "a command (fit, validate, test, predict, inspect, prune, " in answer.complaint
    assert f"but got `{word}`. HINT: {hint}." in answer.complaint


@pytest.mark.parametrize(
    ("argument", "phrase"),
    [("x" * 4097, "but got 4097"), ("a\0b", "NUL"), ("\udc80", "UTF-8")],
)
def test_an_impossible_argument_is_rejected(run, argument, phrase):
    answer = run("fit", argument)
    assert (answer.status, answer.out) == (2, "")
    assert "Expected arguments " in answer.complaint
    assert phrase in answer.complaint


@pytest.mark.parametrize(("command", "option"), [("study", "--preset"), ("report", "--output")])
def test_help_of_a_command_lists_its_options(run, command, option):
    answer = run(command, "--help")
    assert (answer.status, answer.err) == (0, "")
    assert answer.out.startswith(f"usage: lit-prune {command} ")
    assert option in answer.out


def test_a_traceback_can_be_asked_for(run, monkeypatch):
    monkeypatch.setenv("LIT_PRUNE_TRACEBACK", "1")
    with pytest.raises(lit_prune.errors.InputError, match="Expected a command"):
        run("xyzzy")
