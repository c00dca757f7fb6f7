"""A Trainer plugin that writes checkpoint files atomically, and never runs code stored in a checkpoint."""

import os
from pathlib import Path
from typing import Any

from lit_prune.files.atomic import replacing
from lit_prune.files.checkpoint import read_checkpoint, save
from lit_prune.training.run_folder import LAST, PREVIOUS


class AtomicCheckpointIO:
    """Writes each checkpoint to a temporary file, then renames it; a run killed meanwhile keeps its last checkpoint.

    `derive` adds a second base class, the `TorchCheckpointIO` of the Trainer's package, which handles URLs.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write a checkpoint to a file; if the path is a URL, Lightning writes it."""
        if "://" in str(path) or storage_options is not None:
            super().save_checkpoint(checkpoint, path, storage_options)  # type: ignore[misc]
            return
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            save(checkpoint, part)
            if path.name == LAST:
                _keep_previous(path)

    def load_checkpoint(
        self, path: str | Path, map_location: Any = lambda storage, loc: storage, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Read a checkpoint with `weights_only=True`, so that no code in it runs; check it if it is a local file."""
        if "://" in str(path):
            loaded: dict[str, Any] = super().load_checkpoint(path, map_location, weights_only=True)  # type: ignore[misc]
            return loaded
        return read_checkpoint(path)

    def remove_checkpoint(self, path: str | Path) -> None:
        """Remove a checkpoint, but no other file: the path may come from an untrusted checkpoint."""
        if "://" in str(path):
            super().remove_checkpoint(path)  # type: ignore[misc]
        elif Path(path).suffix == ".ckpt" and Path(path).is_file():
            Path(path).unlink()


def _keep_previous(path: Path) -> None:
    """Keep the old `last.ckpt` as `previous.ckpt`; the run can resume from it if the new `last.ckpt` gets damaged."""
    if not path.exists():
        return
    previous = path.with_name(PREVIOUS)
    link = previous.with_suffix(".link.part")
    try:
        link.unlink(missing_ok=True)
        os.link(path, link)  # a hard link, which copies no bytes
        link.replace(previous)
    except OSError:  # the file system has no hard links; do without `previous.ckpt`
        pass
    finally:
        link.unlink(
            missing_ok=True
        )  # still there if `previous` is a link to the same file: then `replace` does nothing
