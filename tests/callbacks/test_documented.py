"""The documentation shows the custom criteria that are tested."""

import inspect
from pathlib import Path

import pytest

from tests.callbacks.criteria import LampPruning, TaylorPruning

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "criterion.md"


@pytest.mark.parametrize("criterion", [LampPruning, TaylorPruning])
def test_the_documentation_shows_the_tested_source(criterion: type) -> None:
    assert f"\n{inspect.getsource(criterion)}" in PAGE.read_text(encoding="utf-8")


def test_a_criterion_fits_in_ten_lines() -> None:
    assert len(inspect.getsource(LampPruning).splitlines()) <= 10
