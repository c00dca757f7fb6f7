"""Tests fail if a code block of a document is wrong."""

from pathlib import Path

import pytest
from sybil.example import Example

from tests.docs import DOCUMENTS
from tests.docs.blocks import SYBIL, commands_in
from tests.docs.session import run_python


@pytest.fixture
def parse(tmp_path, tmp_path_factory):
    """Find the blocks in the text of a document."""

    def parse(text: str) -> list[Example]:
        path = tmp_path / "document.md"
        path.write_text(text, encoding="utf-8")
        document = SYBIL.parse(path)
        document.namespace["tmp_path_factory"] = tmp_path_factory
        return list(document.examples())

    return parse


def test_blocks_are_found_in_lists_too(parse):
    list_item, console = parse(
        "1. In a list:\n\n   ```python\n   if True:\n       print(1)\n   ```\n\n"
        "```text\nno code\n```\n\n```console\n$ lit-prune x\nfirst\n```\n"
    )
    assert (list_item.line, list_item.parsed) == (3, "if True:\n    print(1)\n")
    assert list(commands_in(console.parsed)) == [(["lit-prune", "x"], "first")]


def test_commands_are_read_as_a_shell_reads_them():
    source = 'pip install -e . && lit-prune x   # a comment\nA=1 lit-prune fit \\\n    --name "two words" > log.txt\n'
    assert [argv for argv, _ in commands_in(source)] == [
        ["pip", "install", "-e", "."],
        ["lit-prune", "x"],
        ["A=1", "lit-prune", "fit", "--name", "two words", ">", "log.txt"],
    ]


@pytest.mark.parametrize("line", ["lit-prune x | head", "for x in 1 2; do lit-prune $x; done", "lit-prune fit &"])
def test_unsupported_shell_syntax_is_an_error(line):
    with pytest.raises(ValueError, match="plain commands only"):
        list(commands_in(line))


@pytest.mark.parametrize(
    ("language", "body", "said"),
    [
        ("bash", "lit-prune fit --data.sauce synthetic", "ends with 2"),
        ("bash", "lit-prune nothing", "ends with 2"),
        ("bash", "python scripts/nothing.py", "there is no"),
        ("bash", "python scripts/benchmark.py --fast", "has no"),
        ("bash", "pip install lit-prune[magic]", r"there is no \['magic"),
        ("bash", "pytest tests/nothing.py", "there is no"),
        ("bash", "curl example.org", "no test knows"),
        ("perl", "print", "no test knows"),
        ("console", "$ lit-prune --version\nlit-prune: error: Expected nothing.", "does not fail"),
        ("console", "$ lit-prune nothing\nlit-prune: error: Expected something else.", "`nothing`"),
        ("console", "$ lit-prune --version\nsomething of a version", "prints no"),
        ("yaml", "model: {weihgts: null}", "weihgts"),
        ("yaml", "experiments: [{name: a, parent: b}]", "ends with 2"),
        ("python", "raise ValueError('no')", "no"),
        ("python", "import lit_prune.functional\nprint(torch)", "'torch' is not defined"),
    ],
)
def test_a_wrong_block_fails(parse, language, body, said):
    (block,) = parse(f"```{language}\n{body}\n```\n")
    with pytest.raises((AssertionError, ValueError, NameError), match=said):
        block.evaluate()


def test_code_that_does_not_mention_lit_prune_runs_without_it(tmp_path):
    code = "from importlib import import_module\nimport_module('lit_' + 'prune')"
    with pytest.raises(ModuleNotFoundError, match="lit_prune"):
        run_python(code, "here", tmp_path)
    run_python(f"{code}\nimport lit_prune", "here", tmp_path)


def test_a_block_cannot_use_variables_of_an_earlier_block(parse):
    first, second = parse("```python\nvalue = 3\n```\n\n```python\nvalue\n```\n")
    first.evaluate()
    with pytest.raises(NameError, match="value"):
        second.evaluate()


def test_a_block_can_use_files_of_an_earlier_block(parse):
    first, second = parse("```python\n# mine.py\nvalue = 3\n```\n\n```python\nfrom mine import value\n```\n")
    first.evaluate()
    second.evaluate()


def test_the_documents_have_blocks():
    blocks = [example for path in DOCUMENTS for example in SYBIL.parse(Path(path)).examples()]
    assert sum(block.region.lexemes.get("language") in ("bash", "console") for block in blocks) >= 7
    assert sum(block.region.lexemes.get("language") == "python" for block in blocks) >= 7
    assert all(SYBIL.should_parse(path) for path in DOCUMENTS)
