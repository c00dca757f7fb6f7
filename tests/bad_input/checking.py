"""How a case of the tables is checked."""

import re
import subprocess
import sys
from pathlib import Path

from tests.bad_input.conftest import listing
from tests.bad_input.table import Case, filled
from tests.training.conftest import TINY, Outcome, Run

__all__ = ["check"]

QUIET = ["--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
# what keeps a training short, should a wrong command be taken for a right one
SHORT = {
    "fit": [*TINY, "--trainer.max_epochs=1"],
    "validate": QUIET,
    "test": QUIET,
    "predict": QUIET,
}
SENTENCE = re.compile(r"(In `[^`]*`: )?Expected .+, but got .+\. HINT: .+\.")


def in_process(argv: list[str]) -> Outcome:
    """Run a command as a shell would."""
    # a mistake that kills the process is one too, and must not take the tests with it
    done = subprocess.run([sys.executable, "-m", "lit_prune", *argv], capture_output=True, text=True, check=False)
    return Outcome(done.returncode, done.stdout, done.stderr)


def check(run: Run, case: Case, known: dict[str, str], places: dict[str, str]) -> None:
    argv = [filled(word, places) for word in case.argv]
    argv[1:1] = SHORT.get(case.argv[0], []) if case.argv else []
    before = listing(Path())
    answer = in_process(argv) if case.process else run(*argv)
    pattern = ".*".join(re.escape(filled(part, places)) for part in case.sentence.split("{...}"))
    assert re.fullmatch(pattern, answer.complaint), answer.complaint
    assert SENTENCE.fullmatch(answer.complaint)
    assert answer.complaint.count("HINT") == 1
    assert answer.status == case.status
    after = {name: said for name, said in listing(Path()).items() if Path(name).parts[0] != case.leaves}
    assert after == before
    assert listing(Path(places["{files}"])) == known
