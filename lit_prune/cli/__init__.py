"""The command line: `lit-prune` and `python -m lit_prune`."""

from lit_prune.cli.main import main

__all__ = ["main"]
