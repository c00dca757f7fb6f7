"""Every command and option that a message names exists, so that it can be pasted."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import lit_prune
from tests.hints import wrong_hints

PACKAGE = Path(lit_prune.__file__).parent


def texts(path: Path) -> Iterator[str]:
    """Yield the strings of a module, except docstrings; placeholders of f-strings are written as `{...}`."""
    skipped: set[int] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr):
            skipped.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            skipped |= {id(part) for part in ast.walk(node)}
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "{...}" for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.value


def test_messages_name_commands_and_options_that_exist():
    found = [text for path in sorted(PACKAGE.rglob("*.py")) for text in texts(path)]
    assert sum("`lit-prune " in text for text in found) > 10
    assert [wrong for text in found for wrong in wrong_hints(text)] == []


@pytest.mark.parametrize(
    "text",
    [
        "use `lit-prune fti`",
        "use `lit-prune fit --mdoel.weights x`",
        "use `lit-prune inspect --amount 0.3`",
        "use `--trainer.max_epoch`",
        "run `pip install 'lit-prune[magic]'`",
    ],
)
def test_a_wrong_hint_is_found(text):
    assert len(wrong_hints(text)) == 1


@pytest.mark.parametrize(
    "text",
    [
        "use `lit-prune fit --resume {...}`",
        "use `--trainer.callbacks.amount VALUE`",
        "`pip install 'lit-prune[export]'`",
    ],
)
def test_a_right_hint_is_accepted(text):
    assert wrong_hints(text) == []
