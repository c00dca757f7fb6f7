"""How Sybil runs the code blocks of README.md and docs/.

A new block of these languages needs no change here: `python` is executed; the commands in `bash` and `console` run
one by one on synthetic images, and must print what a console block shows below them; `yaml` is passed to `lit-prune
study` or `lit-prune fit`. The blocks of a document run in order, in one folder, because later blocks use files of
earlier ones, so run all blocks of a document: `pytest README.md`, `pytest docs/tutorial.md`, and for other documents,
whose blocks are marked `gate`, `pytest -m gate docs/cli.md`. Write `<!-- skip: next "reason" -->` above a block that no
test can run.
"""

import re
import shlex
from collections.abc import Callable, Iterator
from itertools import groupby
from typing import TYPE_CHECKING

import yaml
from sybil import Document, Example, Region, Sybil
from sybil.parsers.markdown import SkipParser
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer

from tests.docs import ROOT

if TYPE_CHECKING:  # torch is imported where a block runs: each run of pytest imports this module
    from tests.docs.session import Session

__all__ = ["SYBIL", "commands_in"]

ERROR = "lit-prune: error: "


def session_of(example: Example) -> "Session":
    from tests.docs.session import Session

    if "session" not in example.namespace:
        made = example.namespace["tmp_path_factory"]
        session = Session(example.document.text, made.mktemp("document"), made.getbasetemp() / "runs")
        example.namespace["session"] = session
    found: Session = example.namespace["session"]
    return found


def run_python_block(example: Example) -> None:
    """Run the block. If it begins with a line like `# mine.py`, also save it as that file."""
    from tests.docs.session import run_python

    session = session_of(example)
    for name in re.findall(r"[\"']([\w./-]+\.ckpt)[\"']", example.parsed):
        session.prepare(["python", name])
    if name := re.match(r"# (\w+\.py)\b", example.parsed):
        (session.folder / name[1]).write_text(example.parsed, encoding="utf-8")
    run_python(example.parsed, f"{example.path}:{example.line}", session.folder)


def run_shell_block(example: Example) -> None:
    """Run each command. It must print the error shown below it, or the words of other shown output."""
    for command, shown in commands_in(example.parsed):
        check_command(example, command, shown)


def run_yaml_block(example: Example) -> None:
    """Run `study` with a plan, or `fit` with a configuration."""
    content = yaml.safe_load(example.parsed)
    (session_of(example).folder / "block.yaml").write_text(example.parsed, encoding="utf-8")
    if "experiments" in content:
        check_command(example, ["lit-prune", "study", "block.yaml"])
    elif content.keys() & {"model", "data", "trainer"}:
        check_command(example, ["lit-prune", "fit", "--config", "block.yaml", "--print_config"])


def check_command(example: Example, argv: list[str], shown: str = "") -> None:
    status, printed = session_of(example).run(argv)
    if shown.startswith(ERROR):
        assert status != 0, f"`{shlex.join(argv)}` does not fail"
        assert shown in printed.splitlines(), f"`{shlex.join(argv)}` prints\n{printed}"
        return
    assert status == 0, f"`{shlex.join(argv)}` ends with {status}\n{printed}"
    missing = [word for word in re.findall(r"[A-Za-z]{4,}", shown) if word not in printed]
    assert not missing, f"`{shlex.join(argv)}` prints no {missing}\n{printed}"


def commands_in(source: str) -> Iterator[tuple[list[str], str]]:
    """Yield the commands of a block, each with the line that a console block shows below it.

    Raises:
        ValueError: If a line uses shell syntax other than `&&`, `>` and environment variables in front of a command.
    """
    lines = source.replace("\\\n", " ").splitlines()
    console = any(line.startswith("$ ") for line in lines)
    for line, below in zip(lines, [*lines[1:], ""], strict=True):
        if console and not line.startswith("$ "):
            continue
        lexer = shlex.shlex(line.removeprefix("$ "), posix=True, punctuation_chars="&|;<>()")
        lexer.whitespace_split = True
        for is_and, words in groupby(lexer, lambda word: word == "&&"):
            argv = list(words)
            if is_and:
                continue
            if any(re.fullmatch(r"[&|;<()]+", word) or word in ("for", "if") or "$" in word for word in argv):
                raise ValueError(f"`{shlex.join(argv)}`: these tests run plain commands only")
            yield argv, below if console and not below.startswith("$ ") else ""


def fail(example: Example) -> None:
    raise ValueError(f"no test knows how to run `{example.region.lexemes['language']}`")


EVALUATORS: dict[str, Callable[[Example], None]] = {
    "python": run_python_block,
    "bash": run_shell_block,
    "console": run_shell_block,
    "yaml": run_yaml_block,
}


def find_blocks(document: Document) -> Iterator[Region]:
    """Find the code blocks. A block in an unknown language fails, so that it is not skipped silently."""
    for region in FencedCodeBlockLexer(r"[^\n]*")(document):
        if region.lexemes["language"] not in ("", "text"):
            region.parsed, region.evaluator = region.lexemes["source"], EVALUATORS.get(region.lexemes["language"], fail)
            yield region


SYBIL = Sybil(
    [SkipParser(), find_blocks],
    path=str(ROOT),
    patterns=["README.md", "docs/*.md", "docs/*/*.md"],
    fixtures=["tmp_path_factory"],
)
