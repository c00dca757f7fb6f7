"""Fixtures for the tests of all callbacks."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Make random models and data the same in every run."""
    torch.manual_seed(0)
