"""Python blocks, run as they stand: each in a process of its own, in which no name is defined."""

import os
import re
import sys
import traceback
from multiprocessing import get_context
from pathlib import Path

from tests.docs.blocks import Outcome  # and nothing that a fork would have to import again

__all__ = ["run_snippet"]

# Most of the time of a small script is the import of torch and lightning: one server imports them, and each block runs
# in a fork of it. It has still to import what it uses, for names are its own.
_SERVER = get_context("forkserver")
_SERVER.set_forkserver_preload(
    ["lit_prune.callbacks", "lit_prune.data", "lit_prune.models.resnet18", "lightning.pytorch"]
)


def run_snippet(code: str, place: str, folder: Path, *argv: str) -> Outcome:
    """Run a Python block.

    Args:
        code: It must not need anything that it does not import or find in the folder. If it does not mention
            `lit_prune`, it runs where that cannot be imported.
        place: Where it stands, for its traceback.
        folder: Where it runs.
        words: What is typed after its name.
    """
    # a block without us is there to show that something can be done where we are not installed
    alone = not re.search(r"\blit_prune\b", code) and not argv
    out, err = folder / ".out", folder / ".err"
    process = _SERVER.Process(target=_run, args=(code, place, argv, alone, str(folder), str(out), str(err)))
    process.start()
    process.join()
    assert process.exitcode is not None
    outcome = Outcome(process.exitcode, out.read_text(encoding="utf-8"), err.read_text(encoding="utf-8"))
    out.unlink()
    err.unlink()
    return outcome


def _run(code: str, place: str, argv: tuple[str, ...], alone: bool, folder: str, out: str, err: str) -> None:
    os.chdir(folder)
    sys.path.insert(0, folder)
    sys.argv = [place, *argv]
    for stream, path in ((1, out), (2, err)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), stream)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115 - until the end
    if alone:
        for name in [name for name in sys.modules if name.split(".")[0] == "lit_prune"]:
            del sys.modules[name]
        sys.modules["lit_prune"] = None  # type: ignore[assignment]  # this is how Python marks what cannot be imported
    status = 0
    try:
        exec(compile(code, place, "exec"), {"__name__": "__main__"})  # noqa: S102 - it is our own text
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
