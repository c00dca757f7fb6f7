"""The README leads to its first two commands early; `tests/docs/` tests that they work."""

from tests.docs import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_both_commands_come_early():
    head = "\n".join(README.splitlines()[:40])
    assert "pip install -e . && lit-prune study --preset quick" in head
    assert 'pip install -e ".[dev]" && pytest' in head


def test_it_stays_short():
    assert len(README.splitlines()) <= 200
