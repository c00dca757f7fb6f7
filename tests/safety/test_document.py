"""Every promise of SECURITY.md names a test, and every test that it names exists."""

import ast
import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
SECURITY = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_named_test_exists():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", SECURITY)
    assert len(named) > 20
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
        assert name in [node.name for node in tree.body if isinstance(node, ast.FunctionDef)], f"{path}::{name}"


def test_every_promise_names_a_test():
    rows = [line for line in SECURITY.splitlines() if line.startswith("| ") and "Shown by" not in line]
    assert len(rows) > 10
    assert [row for row in rows if "::test_" not in row.rsplit("|", 2)[1]] == []


def test_malicious_releases_are_excluded():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    ours = [one for one in map(Requirement, listed) if one.name in ("lightning", "pytorch-lightning")]
    assert {one.name for one in ours} == {"lightning", "pytorch-lightning"}
    for requirement in ours:
        assert not list(requirement.specifier.filter(["2.6.2", "2.6.3"]))
        assert list(requirement.specifier.filter(["2.6.1", "2.6.4"])) == ["2.6.1", "2.6.4"]
