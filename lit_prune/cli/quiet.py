"""Hide warnings and tips of Lightning that do not apply to this project."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_MESSAGES = [
    # our loader indexes whole batches of a memory-mapped array, which worker processes would only slow down
    ".*does not have many workers.*",
    # two loggers and config.yaml write into the same new folder of a run
    "Experiment logs directory .* exists and is not empty",
    # a resumed run of a study stays in its folder
    "Checkpoint directory .* exists and is not empty",
    # a run may be resumed in a new folder
    "The dirpath has changed from .*",
    # Lightning 2.6 with torch 2.13 or later; the user cannot change it
    ".*isinstance\\(treespec, LeafSpec\\).*",
]
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
)
# missing callbacks of the original run matter when it is resumed, not when its model is evaluated
_SCORING_MESSAGES = ["Be aware that when using `ckpt_path`"]


@contextmanager
def quiet(scoring: bool = False) -> Iterator[None]:
    """Hide these messages inside a `with` block; with `scoring`, also those that matter only to a resumed run."""
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_helpful)
    try:
        with warnings.catch_warnings():
            for message in _MESSAGES + (_SCORING_MESSAGES if scoring else []):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger in loggers:
            logger.removeFilter(_is_helpful)


def _is_helpful(record: logging.LogRecord) -> bool:
    # the random seed stands in config.yaml; on stderr it would precede every error message
    return not any(text in record.getMessage() for text in ("Tip: ", "Seed set to "))
