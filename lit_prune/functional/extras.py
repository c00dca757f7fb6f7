"""Import optional packages, and silence their warnings and log messages."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lit_prune.errors import InputError


def import_extra(module: str, extra: str) -> Any:
    """Import a module of an optional package, which `pip install 'lit-prune[EXTRA]'` installs.

    Raises:
        InputError: If the package is not installed.
    """
    try:
        with silence_libraries():
            return import_module(module)
    except ModuleNotFoundError as error:
        package = (error.name or module).partition(".")[0]
        raise InputError(
            f"The package `{package}` is not installed. Install it with `pip install 'lit-prune[{extra}]'`."
        ) from error


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Suppress all log messages and warnings inside a `with` block."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
