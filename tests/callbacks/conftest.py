"""What the tests of all callbacks share."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Models and data are random but the same in every run."""
    torch.manual_seed(0)
