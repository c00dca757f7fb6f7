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
