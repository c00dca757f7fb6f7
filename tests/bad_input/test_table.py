"""Every case of the table, as a person sees it: one sentence, an exit status, no traceback, nothing else on disk."""

from inspect import isabstract

import pytest

import lit_prune.callbacks
from lit_prune.main import COMMANDS
from tests.bad_input import tables_of_trained as trained
from tests.bad_input.checking import check
from tests.bad_input.table import CASES


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_a_mistake_is_one_sentence(run, case, known_files, places):
    check(run, case, known_files, places(case))


def test_the_table_is_about_every_command_and_callback():
    argv = [case.argv for case in [*CASES, *trained.CASES]]
    assert len(argv) >= 600
    assert len(set(argv)) == len(argv)
    for command in COMMANDS:
        assert sum(bool(case) and case[0] == command for case in argv) >= 5, command
    for name in lit_prune.callbacks.__all__:
        if isabstract(getattr(lit_prune.callbacks, name)):
            continue  # a base for callbacks of others
        assert sum(f"--trainer.callbacks+={name}" in case for case in argv) >= 6, name
    assert sum(case.process for case in CASES) >= 8


def test_the_later_of_two_values_counts(run):
    """As everywhere: a script that adds an option to a command may overrule one."""
    answer = run("fit", "--data.val_size=3", "--data.val_size=4", "--print_config")
    assert answer.status == 0
    assert "val_size: 4" in answer.out


def test_long_words_are_shown_short(run, files):
    long = [case for case in CASES if any("{long}" in word or "{many}" in word for word in case.argv)]
    assert len(long) >= 10
    assert all(len(case.sentence) < 500 for case in long)
