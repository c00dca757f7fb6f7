"""Every code block of the README and of `docs/` does what it says.

A new block needs nothing here. `python` runs as it stands; `bash` and `console` run command by command on drawn images,
and what a console block shows of an error is compared; `yaml` and `json` are read, and a plan or a configuration is
given to the command that takes it. The blocks of one document run in its order in one folder, so that a later block
finds the files of an earlier one: run a document whole. A block that no test can run says why, on its fence:
"```bash no-run: needs two machines".
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
import yaml

from lit_prune.data import synthetic
from lit_prune.main import COMMANDS
from tests.docs.blocks import Block, Command, commands_in, inline_commands, text_of
from tests.docs.places import BLOCKS, DOCUMENTS, ROOT
from tests.docs.session import Session, SmallRuns, has_options, help_of, options_of
from tests.docs.snippets import run_snippet

# what is no code: output, trees of files
_TEXT = ("", "text")
_PLAN, _CONFIGURATION = "experiments", {"model", "data", "trainer"}


@pytest.fixture(scope="module", autouse=True)
def _draw_once() -> Iterator[None]:
    """Draw the images once for all commands: that takes longer than a training on a few of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(synthetic, "draw_split", cache(synthetic.draw_split))
        yield


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> SmallRuns:
    return SmallRuns(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def sessions() -> dict[str, Session]:
    return {}


@pytest.fixture
def session(
    request: pytest.FixtureRequest,
    sessions: dict[str, Session],
    runs: SmallRuns,
    tmp_path_factory: pytest.TempPathFactory,
) -> Session:
    """The session of the block's document."""
    document = request.getfixturevalue("block").document
    if document not in sessions:
        # what Python reads may be given to a network of torchvision's
        wide = [name for block in BLOCKS if block.document == document for name in _named_in_python(block)]
        sessions[document] = Session(tmp_path_factory.mktemp("document") / "folder", runs, wide)
    return sessions[document]


def _named_in_python(block: Block) -> list[str]:
    """The files of models that a Python block names."""
    found: list[str] = re.findall(r"[\"']([\w./-]+\.(?:ckpt|pth?))[\"']", block.body)
    return found if block.language == "python" else []


def check(block: Block, session: Session) -> None:
    """Do what a block says.

    Raises:
        AssertionError: If that does not end well, or not with what is shown.
        ValueError: If it cannot be done in a test.
    """
    if block.language == "python":
        session.prepare(_named_in_python(block))
        outcome = run_snippet(block.body, block.place, session.folder)
        assert outcome.status == 0, f"{block.place}\n{outcome.err}"
    elif block.language in ("bash", "console"):
        here = session.folder
        for command in commands_in(block):
            _check_command(command, block, session)
        session.folder = here  # each block begins where the document does
    elif block.language == "yaml":
        _check_yaml(block, session)
    elif block.language == "json":
        json.loads(block.body)
    else:
        raise ValueError(f"{block.place}: no test knows what to do with `{block.language}`")


def _check_command(command: Command, block: Block, session: Session) -> None:
    outcome = session.do(command)
    sentence = next((line for line in command.shown if line.startswith("lit-prune: error: ")), None)
    if sentence is not None:
        assert outcome.status != 0, f"{block.place}: `{command}` does not fail"
        assert sentence in outcome.err.splitlines(), f"{block.place}: `{command}`\n{outcome.err}"
        return
    assert outcome.status == 0, f"{block.place}: `{command}` ends with {outcome.status}\n{outcome.out}\n{outcome.err}"
    if command.shown:  # numbers and columns differ from those of a real network; what they are called does not
        printed = outcome.out + outcome.err
        missing = [word for word in re.findall(r"[A-Za-z]{4,}", command.shown[0]) if word not in printed]
        assert not missing, f"{block.place}: `{command}` prints no {missing}\n{printed}"


def _check_yaml(block: Block, session: Session) -> None:
    content = yaml.safe_load(block.body)
    name = block.file_name or "block.yaml"
    (session.folder / name).write_text(block.body, encoding="utf-8")
    if isinstance(content, dict) and _PLAN in content:
        _check_command(Command(("lit-prune", "study", name)), block, session)
    elif isinstance(content, dict) and content.keys() & _CONFIGURATION:
        _check_command(Command(("lit-prune", "fit", "--config", name, "--print_config")), block, session)


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language not in _TEXT], ids=lambda b: b.place)
def test_the_block_does_what_it_says(block, session):
    if block.reason is not None:
        pytest.skip(block.reason)
    check(block, session)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_the_commands_in_the_text_have_these_options(path):
    for argv in inline_commands(path):
        named = [re.split(r"[=+]", word)[0] for word in argv if re.match(r"--\w", word)]
        if argv[0] == "python":
            assert (outcome := has_options(argv[1:])).status == 0, outcome.err
        elif len(argv) > 1 and argv[1] in COMMANDS:
            free = ("--data.", "--model.", "--trainer.")
            unknown = [o for o in named if o not in options_of(argv[1]) and not o.startswith(free)]
            assert unknown == [] or unknown == ["--help"], f"{argv}: {unknown} not in {help_of(argv[1])[:500]}"
        else:
            assert len(argv) == 1 or argv[1] in ("COMMAND", "--version", "--help"), argv


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(path):
    targets = re.findall(r"\]\(([^)\s]+)\)", text_of(path))
    inside = [target for target in targets if "://" not in target]
    missing = [t for t in inside if t.split("#")[0] and not (path.parent / t.split("#")[0]).exists()]
    assert missing == []
    for target in inside:
        name, _, anchor = target.partition("#")
        file = path.parent / name if name else path
        if anchor and file.suffix == ".md":
            assert anchor in _anchors(file), target


def _anchors(path: Path) -> set[str]:
    """The headings of a document as GitHub names them in links."""
    headings = re.findall(r"^#+ (.*)$", text_of(path), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_there_is_something_to_check():
    assert len([block for block in BLOCKS if block.language in ("bash", "console")]) >= 7
    assert len([block for block in BLOCKS if block.language == "python"]) >= 1
    assert sum(block.reason is not None for block in BLOCKS) <= 3
