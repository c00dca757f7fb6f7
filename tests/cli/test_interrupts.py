"""Ctrl-C at any moment prints one line without the word "error", and never a traceback."""

import os
import signal
import subprocess
import sys

import pytest

SAID = "lit-prune: Interrupted. Run the same command again.\n"
# the command is a module that interrupts the process while it is imported, as its code says
MODULE = "import os, signal\ndef interrupt(): os.kill(os.getpid(), signal.SIGINT)\n"
CODES = {
    "an import": "interrupt()\n",
    "an import whose errors are caught": "try: interrupt()\nexcept BaseException: pass\n",
    "a callback that cannot raise": (
        "import weakref\nclass A: pass\na = A()\nr = weakref.ref(a, lambda _: interrupt())\ndel a\n"
    ),
    "a command": "def main(argv): interrupt()\n",
}


@pytest.mark.parametrize("when", CODES)
def test_an_interrupt_is_one_line(tmp_path, when):
    (tmp_path / "fake.py").write_text(MODULE + CODES[when])
    code = (
        "import sys, importlib; import lit_prune.main as m\n"
        "m.import_module = lambda name: importlib.import_module('fake')\n"
        "sys.argv[1:] = ['inspect']; sys.exit(m.main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
    )
    assert (done.returncode, done.stderr) == (128 + signal.SIGINT, SAID)


def test_an_interrupt_while_python_exits_prints_nothing(tmp_path):
    code = (
        "import atexit, os, signal, sys; from lit_prune.main import main\n"
        "atexit.register(os.kill, os.getpid(), signal.SIGINT)\n"
        "sys.argv[1:] = ['--version']; sys.exit(main())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")


@pytest.mark.parametrize("argv", [["--help"], ["fit", "--help"], ["study", "--help=all"]])
def test_a_closed_pipe_is_silent(argv):
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "lit_prune", *argv], stdout=write, stderr=subprocess.PIPE, text=True, check=False
    )
    os.close(write)
    assert done.stderr == ""
