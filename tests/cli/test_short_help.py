"""The short help: at once, on one screen, and in agreement with the parser."""

import re
import shlex
import subprocess
import sys

import pytest

from lit_prune.cli.short_help import PAGES
from lit_prune.main import COMMANDS, main
from tests.docs.session import Session, options_of


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_short_help_imports_no_parser(word):
    code = (
        "import sys; from lit_prune.main import COMMANDS, main\n"
        f"print(sum(main([name, '--data.val_size', {word!r}]) for name in COMMANDS))\n"
        "print(sorted({'torch', 'lightning', 'numpy', 'jsonargparse', 'yaml'} & sys.modules.keys()))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines()[-2:] == ["0", "[]"]


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_fits_on_a_screen_and_lists_options_that_exist(capsys, command):
    assert main([command, "--help"]) == 0
    printed = capsys.readouterr().out
    assert len(printed.splitlines()) <= 40
    assert max(map(len, printed.splitlines())) <= 120
    named = {name for name in re.findall(r"--\w+[\w.-]*\w", printed) if not re.match(r"--(help|\w+\.NAME)", name)}
    assert len(named) >= 2
    # the arguments of a callback or an optimizer are in the help of its class
    known = options_of(command) | (options_of("fit") if command == "study" else set())
    assert named - known - {"--trainer.callbacks.amount", "--model.optimizer.lr"} == set()


def test_every_command_has_short_help():
    assert PAGES.keys() == COMMANDS.keys()


@pytest.mark.gate
@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_run(tmp_path_factory, command):
    session = Session("", tmp_path_factory.mktemp("examples"), tmp_path_factory.getbasetemp() / "runs")
    for example in PAGES[command].examples:
        program, *argv = shlex.split(example)
        assert (program, argv[0]) == ("lit-prune", command)
        status, printed = session.run([program, *argv])
        assert status == 0, f"{example}\n{printed}"


def test_the_whole_help_has_every_option_but_no_class_of_ours_that_runs_add(capsys):
    assert main(["fit", "--help=all"]) == 0
    printed = capsys.readouterr().out
    assert {"--trainer.limit_val_batches", "--data.split_seed", "--on_nan"} <= options_of("fit")
    assert "lit_prune.GlobalL1Pruning" in printed
    assert "lit_prune.training" not in printed
