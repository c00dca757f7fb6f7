"""The documentation shows the parts of a pruner that are tested."""

import inspect
from pathlib import Path
from typing import Any

import pytest

from tests.callbacks import parts

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "criterion.md"
PARTS: dict[str, Any] = {
    name: value for name, value in vars(parts).items() if getattr(value, "__module__", None) == parts.__name__
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_the_documentation_shows_the_tested_source(part: Any) -> None:
    assert f"\n{inspect.getsource(part)}" in PAGE.read_text(encoding="utf-8")


def test_a_criterion_an_allocation_a_schedule_and_a_structure_take_at_most_ten_lines_each() -> None:
    assert len(PARTS) == 6
    for part in (parts.relative_magnitude, parts.convolutions_first, parts.slow_start, parts.Columns):
        assert len(inspect.getsource(part).splitlines()) <= 10
