"""The tests of the documents notice what is wrong with a document."""

from pathlib import Path

import pytest

from tests.docs.blocks import Block, Command, blocks_of, commands_in, inline_commands
from tests.docs.session import Session, SmallRuns
from tests.docs.snippets import run_snippet
from tests.docs.test_documents import check

DOCUMENT = """# Title

Text with `lit-prune inspect
last.ckpt --format csv`, and `--format` alone.

```bash
pip install -e . && lit-prune study --preset quick   # a comment
A=1 lit-prune fit \\
    --name "two words" > log.txt
```

1. In a list:

   ```python
   if True:
       print(1)
   ```

````text
```bash
lit-prune no-block
```
````

```bash no-run: needs two machines
lit-prune fit --trainer.num_nodes 2
```

```console
$ lit-prune x
first
second
```

```yaml
# mine.yaml
a: 1
```
"""


@pytest.fixture
def document(tmp_path: Path) -> Path:
    path = tmp_path / "document.md"
    path.write_text(DOCUMENT, encoding="utf-8")
    return path


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path / "folder", SmallRuns(tmp_path))


def block(language: str, body: str) -> Block:
    return Block("document.md", 1, language, None, body)


def test_blocks_are_found_where_they_are(document):
    found = blocks_of(document, "document.md")
    assert [(b.language, b.line) for b in found] == [
        ("bash", 7), ("python", 15), ("text", 20), ("bash", 26), ("console", 30), ("yaml", 36)
    ]  # fmt: skip
    assert found[1].body == "if True:\n    print(1)\n"
    assert [b.reason for b in found if b.reason] == ["needs two machines"]
    assert [b.file_name for b in found if b.file_name] == ["mine.yaml"]


def test_commands_are_read_as_a_shell_reads_them(document):
    found = blocks_of(document, "document.md")
    assert commands_in(found[0]) == [
        Command(("pip", "install", "-e", ".")),
        Command(("lit-prune", "study", "--preset", "quick")),
        Command(("lit-prune", "fit", "--name", "two words"), (("A", "1"),), "log.txt"),
    ]
    assert commands_in(found[4]) == [Command(("lit-prune", "x"), shown=("first", "second"))]
    assert inline_commands(document) == [("lit-prune", "inspect", "last.ckpt", "--format", "csv")]


@pytest.mark.parametrize("line", ["lit-prune x | head", "for x in 1 2; do lit-prune $x; done", "lit-prune fit &"])
def test_what_needs_more_of_a_shell_is_refused(line):
    with pytest.raises(ValueError, match="run plain commands alone"):
        commands_in(block("bash", line))


@pytest.mark.parametrize(
    ("language", "body", "said"),
    [
        ("bash", "lit-prune fit --data.sauce synthetic", "ends with 2"),
        ("bash", "lit-prune nothing", "ends with 2"),
        ("bash", "python examples/nothing.py", "ends with 2"),
        ("bash", "python scripts/benchmark.py --fast", "has no"),
        ("bash", "pip install lit-prune[magic]", "there is no extra"),
        ("bash", "pytest tests/nothing.py", "there is no"),
        ("bash", "cd nowhere", "is no folder"),
        ("console", "$ lit-prune --version\nlit-prune: error: Expected nothing.", "does not fail"),
        ("console", "$ lit-prune nothing\nlit-prune: error: Expected something else.", "Expected a command"),
        ("console", "$ lit-prune --version\nsomething of a version", "prints no"),
        ("yaml", "model: {weihgts: null}", "weihgts"),
        ("yaml", "experiments: [{name: a, parent: b}]", "ends with 2"),
        ("python", "raise ValueError('no')", "ValueError: no"),
        ("python", "import lit_prune.functional\nprint(torch)", "'torch' is not defined"),
    ],
)
def test_a_block_that_does_not_hold_is_noticed(session, language, body, said):
    with pytest.raises(AssertionError, match=said):
        check(block(language, body), session)


@pytest.mark.parametrize(("language", "body"), [("perl", "print"), ("bash", "curl example.org")])
def test_a_block_that_no_test_can_run_is_noticed(session, language, body):
    with pytest.raises(ValueError, match=r"no test knows|know no way"):
        check(block(language, body), session)


def test_a_block_that_does_not_mention_us_runs_without_us(tmp_path):
    code = "from importlib import import_module\nimport_module('lit_' + 'prune')"
    assert (
        "No module named" in run_snippet(code, "here", tmp_path).err or "halted" in run_snippet(code, "", tmp_path).err
    )
    code += "\nimport lit_prune"
    assert run_snippet(code, "here", tmp_path).status == 0


def test_a_block_cannot_leave_names_for_the_next(tmp_path):
    assert run_snippet("import lit_prune\nvalue = 3", "here", tmp_path).status == 0
    assert "'value' is not defined" in run_snippet("import lit_prune\nvalue", "here", tmp_path).err
