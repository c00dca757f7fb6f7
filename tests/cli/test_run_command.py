"""Exit statuses and errors of commands on trained networks."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lit_prune.cli.run_command import run_command
from lit_prune.errors import expected

NO_SPACE = OSError(28, "No space left on device", "out.ckpt")


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (None, 0, ""),
        (SystemExit(0), 0, ""),
        (expected("a", "b", "c"), 2, "lit-prune: error: Expected a, but got b. HINT: c.\n"),
        (NO_SPACE, 1, "lit-prune: error: No space left on device: `out.ckpt`. Free some space, then run the same "),
    ],
)
def test_the_outcome_is_a_status_and_at_most_one_sentence(capsys, error, status, printed):
    def command(argv):
        sys.stdout.write(" ".join(argv) + "\n")
        if error is not None:
            raise error

    assert run_command(command, ["cost", "x"]) == status
    out, err = capsys.readouterr()
    assert out == "cost x\n"
    assert err.startswith(printed)
    assert (err == "") == (printed == "")


def test_a_bug_keeps_its_traceback():
    def command(argv):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_command(command, ["cost"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_command_which_removes_its_files(tmp_path, capsys, number):
    def command(argv):
        part = tmp_path / "part"
        part.touch()
        try:
            os.kill(os.getpid(), number)
            time.sleep(5)
        finally:
            part.unlink()

    assert run_command(command, ["cost"]) == 128 + number
    assert list(tmp_path.iterdir()) == []
    assert capsys.readouterr().err == f"lit-prune: Interrupted by {number.name}. Run the same command again.\n"


def test_a_library_that_catches_the_interruption_does_not_hide_it(capsys):
    def command(argv):
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except Exception as error:
            raise ValueError("no valid value") from error

    assert run_command(command, ["cost"]) == 130
    assert capsys.readouterr().err == "lit-prune: Interrupted by SIGINT. Run the same command again.\n"


def test_a_closed_pipe_is_not_an_error():
    code = (
        "import sys\nfrom lit_prune.cli.run_command import run_command\n"
        "sys.exit(run_command(lambda argv: [print('x' * 1000) for _ in range(1000)], ['inspect']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    printed = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), printed) == (0, b"")
