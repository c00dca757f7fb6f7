"""Commands, options and links in the text of the documents, outside code blocks, are valid."""

import re
from pathlib import Path

import pytest

from lit_prune.main import COMMANDS
from tests.docs import DOCUMENTS, ROOT
from tests.docs.session import check_script, options_of

# options that docs/cli.md describes once for several commands
_COMMON = {"--help", "--config", "--print_config", "--model", "--limit", "--data"}
# options of `fit` with a custom model
_CUSTOM = {"--init_from", "--model", "--data"}


def text_of(path: Path) -> str:
    """Return a document without its code blocks."""
    return re.sub(r"^( *)(`{3,}).*?^\1\2 *$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)


def inline_commands(text: str) -> list[list[str]]:
    """Return the commands between backquotes, split into arguments."""
    return [span.split() for span in re.findall(r"`((?:lit-prune|python scripts/)[^`]*)`", text)]


def wrong_options(argv: list[str]) -> str:
    """Return the options of a command that do not exist, or an empty string."""
    if argv[0] == "python":
        return check_script(argv[1:])
    if len(argv) == 1 or argv[1] not in COMMANDS:
        return "" if argv[1:] in ([], ["--version"], ["--help"]) or argv[1] == "COMMAND" else f"no command {argv[1]}"
    named = {re.split(r"[=+]", word)[0] for word in argv if re.match(r"--\w", word)}
    free = {option for option in named if option.startswith(("--data.", "--model.", "--trainer."))}
    return " ".join(named - free - options_of(argv[1]) - {"--help"})


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_options_of_inline_commands_exist(path):
    assert [wrong for argv in inline_commands(text_of(path)) if (wrong := wrong_options(argv))] == []


@pytest.mark.parametrize(
    "text",
    ["`lit-prune inspect\nlast.ckpt --fromat csv`", "`lit-prune nothing`", "`python scripts/benchmark.py --fast`"],
)
def test_a_wrong_command_is_found(text):
    (argv,) = inline_commands(text)
    assert wrong_options(argv)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_link_targets_exist(path):
    links = re.findall(r'\]\(([^)\s]+)(?: "[^"]*")?\)', text_of(path))  # some have a title
    targets = [target for target in links if "://" not in target]
    for name, _, anchor in (target.partition("#") for target in targets):
        file = path.parent / name if name else path
        assert file.exists(), name
        if anchor:
            headings = re.findall(r"^#+ (.*)$", text_of(file), re.MULTILINE)
            # GitHub derives anchors from headings in this way
            assert anchor in {re.sub(r"[^\w\- ]", "", h.lower()).strip().replace(" ", "-") for h in headings}, anchor


def tables() -> dict[str, set[str]]:
    """Return the options in the first column of each table of docs/cli.md, by command."""
    parts = re.split(r"^#{2,3} (.*)$", text_of(ROOT / "docs" / "cli.md"), flags=re.MULTILINE)
    found: dict[str, set[str]] = {}
    for head, body in zip(parts[1::2], parts[2::2], strict=True):
        options = {
            option for row in re.findall(r"^\| (`--.*?) \|", body, re.M) for option in re.findall(r"--[\w.]+", row)
        }
        found |= dict.fromkeys(set(head.split(", ")) & COMMANDS.keys(), options)
    return found


def test_every_command_has_a_section():
    assert tables().keys() == COMMANDS.keys()


@pytest.mark.parametrize("command", ["inspect", "prune", "sensitivity", "shrink", "export", "cost"])
def test_the_tables_have_the_options_of_the_help(command):
    known = {option for option in options_of(command) if not option.startswith("--data.")}
    assert tables()[command] - _COMMON == known - _COMMON
    assert tables()[command] <= known


@pytest.mark.parametrize("command", ["fit", "study"])
def test_every_option_in_the_other_tables_exists(command):
    assert len(tables()[command]) > 5
    assert tables()[command] <= options_of(command) | _CUSTOM
