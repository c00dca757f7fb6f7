"""What all tests share."""

import os

# As many tests run side by side as there are cores. More threads than cores wait for each other, most of the time;
# processes that tests start inherit this. It must be set before torch is imported.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Lightning's loggers keep the stderr of their import; that of a test is closed after it
import lightning.pytorch  # noqa: F401
import pytest
import pytorch_lightning  # noqa: F401
import torch

from tests.docs.blocks import SYBIL

# the code blocks of README.md and docs/ are tests, too
pytest_collect_file = SYBIL.pytest()
_QUICK = {"README.md", "tutorial.md"}  # documents whose blocks do not wait for the gate


@pytest.hookimpl(tryfirst=True)  # before pytest selects tests by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the blocks of most documents to the gate: they take about a quarter of the time of all tests."""
    for item in items:
        if item.path.suffix == ".md" and item.path.name not in _QUICK:
            item.add_marker("gate")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip tests marked `gpu` without a GPU."""
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip("no GPU")
