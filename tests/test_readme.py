"""What the README has to lead to; that its blocks do what they say is `tests/docs`' to show."""

from tests.docs.places import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_both_commands_come_early():
    head = "\n".join(README.splitlines()[:40])
    assert "pip install -e . && lit-prune study --preset quick" in head
    assert 'pip install -e ".[dev]" && pytest' in head
