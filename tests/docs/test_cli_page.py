"""`docs/cli.md` and `--help` name the same options."""

import re

import pytest

from lit_prune.main import COMMANDS
from tests.docs.blocks import text_of
from tests.docs.places import ROOT
from tests.docs.session import options_of

# which a page says once, for all commands
_COMMON = {"--help", "--config", "--print_config", "--model", "--limit", "--data"}
_TRAINED = ("inspect", "prune", "sensitivity", "shrink", "export", "cost")


def sections() -> dict[str, str]:
    """The text below each heading that names commands, by command."""
    parts = re.split(r"^#{2,3} (.*)$", text_of(ROOT / "docs" / "cli.md"), flags=re.MULTILINE)
    pairs = zip(parts[1::2], parts[2::2], strict=True)
    return {name: body for head, body in pairs for name in head.split(", ") if name in COMMANDS}


def in_table(command: str) -> set[str]:
    """The options in the first column of the command's table."""
    rows = re.findall(r"^\| (`--.*?) \|", sections()[command], re.MULTILINE)
    return {option for row in rows for option in re.findall(r"--[\w.]+", row)}


def test_every_command_has_a_section():
    assert sections().keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", _TRAINED)
def test_the_tables_have_the_options_of_the_help(command):
    known = {option for option in options_of(command) if not option.startswith("--data.")}
    assert in_table(command) - _COMMON == known - _COMMON
    assert in_table(command) <= known


@pytest.mark.parametrize("command", ["fit", "study"])
def test_every_option_in_the_other_tables_is_one(command):
    known = options_of(command) | {"--init_from", "--model", "--data"}  # of `fit` with somebody else's classes
    found = in_table(command)
    assert len(found) > 5
    assert found <= known
