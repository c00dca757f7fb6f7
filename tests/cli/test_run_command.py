"""How commands on trained networks end."""

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
    ("ends", "status", "said"),
    [
        (None, 0, ""),
        (SystemExit(0), 0, ""),
        (expected("a", "b", "c"), 2, "lit-prune: error: Expected a, but got b. HINT: c.\n"),
        (NO_SPACE, 1, "lit-prune: error: Expected to be able to read and write `out.ckpt`, but got no space left on "),
    ],
)
def test_a_status_and_a_sentence(capsys, ends, status, said):
    def command(argv):
        sys.stdout.write(" ".join(argv) + "\n")
        if ends is not None:
            raise ends

    assert run_command(command, ["cost", "x"]) == status
    out, err = capsys.readouterr()
    assert out == "cost x\n"
    assert err.startswith(said)
    assert (err == "") == (said == "")


def test_a_bug_is_no_sentence():
    def command(argv):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        run_command(command, ["cost"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_and_lets_it_clear_away(tmp_path, capsys, number):
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
    assert capsys.readouterr().err.startswith("lit-prune: error: Expected ")


def test_a_pipe_that_is_closed_is_no_failure():
    code = (
        "import sys\nfrom lit_prune.cli.run_command import ended\n"
        "sys.exit(ended(lambda words: [print('x' * 1000) for _ in range(1000)], ['inspect']))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    process.stdout.close()
    assert process.stderr is not None
    said = process.stderr.read()
    process.stderr.close()
    assert (process.wait(), said) == (0, b"")
