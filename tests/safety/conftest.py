"""The command line as the other tests call it."""

from tests.cli.conftest import run

__all__ = ["run"]
