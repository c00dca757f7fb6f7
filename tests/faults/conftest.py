"""Disks that are small or read-only, and options that train a small custom model in a second."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.training.conftest import run as run  # the fixture

# a training of a second with a custom model, whose checkpoint has about ten KiB
FIT = [
    "fit",
    "--model=tests.faults.modules.Line",
    "--data=tests.faults.modules.Points",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
KiB = 1 << 10


def _mount(*argv: str) -> None:
    mount = shutil.which(argv[0])
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root can mount a disk")
    done = subprocess.run([mount, *argv[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk cannot be mounted here: {done.stderr.strip()}")


class Disk:
    """A file system in memory.

    Attributes:
        folder: Where it is mounted.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def resize(self, size: int) -> None:
        """Set its size in bytes."""
        _mount("mount", "-o", f"remount,size={size}", str(self.folder))

    def leave(self, size: int) -> None:
        """Leave this many bytes free."""
        status = os.statvfs(self.folder)
        page = os.sysconf("SC_PAGE_SIZE")
        used = (status.f_blocks - status.f_bfree) * status.f_frsize
        self.resize(max(used + size // page * page, page))

    def freeze(self, read_only: bool = True) -> None:
        """Mount it read-only, or writable again."""
        _mount("mount", "-o", f"remount,{'ro' if read_only else 'rw'}", str(self.folder))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """A disk of 64 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    _mount("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder))
    yield Disk(folder)
    subprocess.run([str(shutil.which("umount")), "-l", str(folder)], check=True)


Snapshot = dict[str, bytes]


@pytest.fixture
def snapshot() -> Callable[[Path], Snapshot]:
    """Read all files below a folder, by path."""

    def read(folder: Path) -> Snapshot:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    return read
