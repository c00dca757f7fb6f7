"""Checkpoints that are whole or not there, read without trust."""

import os
from pathlib import Path
from typing import Any

from lightning.fabric.plugins import TorchCheckpointIO

from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import read_checkpoint, save

__all__ = ["AtomicCheckpointIO"]


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place and moves it there, so that a killed run leaves the one before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint, whole or not at all; a path that is no local file is left to Lightning."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save(checkpoint, part)
            if path.name == "last.ckpt":
                _keep_one_before(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint, verified and without running anything in it, whatever is asked for."""
        if "://" in str(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)
            return loaded
        return read_checkpoint(path)


def _keep_one_before(path: Path) -> None:
    """Keep the last checkpoint but one: if a disk spoils the last, the run goes on from there."""
    if not path.exists():
        return
    before = path.with_name("previous.ckpt")
    link = before.with_suffix(".link.part")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)  # one more name for the file that is about to be replaced: no byte is copied
        link.replace(before)
    except OSError:  # not every file system has such links
        link.unlink(missing_ok=True)
