"""Hide warnings and tips of Lightning that do not apply to this project."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import lit_prune

_MESSAGES = [
    # our loader reads whole batches from a memory-mapped array; worker processes would only slow it down
    ".*does not have many workers.*",
    # two loggers and `config.yaml` share the new folder of a run
    "Experiment logs directory .* exists and is not empty",
    # with `--resume`, a run continues in its folder
    "Checkpoint directory .* exists and is not empty",
    # with `--ckpt_path`, a run continues in a new folder
    "The dirpath has changed from .*",
    # with DDP, the gradient of a 1x1 convolution may have other strides than its weight, but only where the size is 1
    "Grad strides do not match bucket view strides",
    # a warning of Lightning 2.6 with torch 2.13 or later, which the user cannot prevent
    ".*isinstance\\(treespec, LeafSpec\\).*",
]
_LOGGERS = (
    "lightning.pytorch.utilities.rank_zero",
    "lightning.fabric.utilities.seed",
    "pytorch_lightning.utilities.rank_zero",
    "lightning_fabric.utilities.seed",
)
# this warning about missing callbacks matters when a run is resumed, not when its model is evaluated
_SCORING_MESSAGES = ["Be aware that when using `ckpt_path`"]


@contextmanager
def quiet(scoring: bool = False) -> Iterator[None]:
    """Hide Lightning's messages listed above inside a `with` block; `_SCORING_MESSAGES` only with `scoring`.

    Warnings of lit-prune itself are printed without the file and the line of code that they come from.
    """
    format_warning = warnings.formatwarning
    warnings.formatwarning = partial(_format_warning, format_warning)
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    for logger in loggers:
        logger.addFilter(_is_helpful)
    try:
        with warnings.catch_warnings():
            for message in _MESSAGES + (_SCORING_MESSAGES if scoring else []):
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        warnings.formatwarning = format_warning
        for logger in loggers:
            logger.removeFilter(_is_helpful)


def _format_warning(
    otherwise: Callable[..., str], message: Warning | str, category: type[Warning], filename: str, *more: Any
) -> str:
    own = Path(filename).is_relative_to(Path(lit_prune.__file__).parent)
    return f"lit-prune: warning: {message}\n" if own else otherwise(message, category, filename, *more)


def _is_helpful(record: logging.LogRecord) -> bool:
    # the random seed is in config.yaml; printed on stderr, it would precede every error message. The message about
    # model summary callbacks says that there is one, which every run has
    return not any(text in record.getMessage() for text in ("Tip: ", "Seed set to ", "model summary callbacks"))
