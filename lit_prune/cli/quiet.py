"""Warnings and advertisements that tell the user of this project nothing."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["quiet"]

# true of other projects, not of this one
_UNHELPFUL = [
    # our loader indexes whole batches of a memory-mapped array: workers would slow it
    ".*does not have many workers.*",
    # two loggers and config.yaml share the run's own new folder on purpose
    "Experiment logs directory .* exists and is not empty",
    # a study's run that goes on does so in its own folder
    "Checkpoint directory .* exists and is not empty",
    # a resumed run has a new folder, so the best checkpoint of the old one is not overwritten
    "The dirpath has changed from .*",
    # Lightning 2.6 on torch 2.13 and later: nothing that a user could change
    ".*isinstance\\(treespec, LeafSpec\\).*",
]
# callbacks that have a state matter when a run is resumed, not when its model is scored
_WHEN_SCORING = ["Be aware that when using `ckpt_path`"]


@contextmanager
def quiet(scoring: bool = False) -> Iterator[None]:
    """Leave out, while it lasts, what Lightning says that is not true of this project.

    Args:
        scoring: Also leave out what matters only when a run is resumed.
    """
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_no_advertisement)
    try:
        with warnings.catch_warnings():
            for message in _UNHELPFUL + (_WHEN_SCORING if scoring else []):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.removeFilter(_no_advertisement)


def _no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: " not in record.getMessage()
