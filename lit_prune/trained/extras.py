"""Packages that only some commands need, and that not everybody has."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from lit_prune.errors import expected

__all__ = ["import_extra", "silence_libraries"]


def import_extra(module: str, extra: str) -> Any:
    """Import a package that an extra brings.

    Args:
        module: What to import, for example "onnxruntime".
        extra: The extra of this project that has it, for example "export".

    Raises:
        InputError: If it is not installed.
    """
    try:
        with silence_libraries():
            return import_module(module)
    except ModuleNotFoundError as error:
        name = (error.name or module).partition(".")[0]
        raise expected(f"the package `{name}`", "a Python without it", f'`pip install "lit-prune[{extra}]"`') from error


@contextmanager
def silence_libraries() -> Iterator[None]:
    """Leave out, while it lasts, what libraries log and warn of about their own insides."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
