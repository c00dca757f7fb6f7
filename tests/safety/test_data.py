"""Nothing in a data folder is unpacked or unpickled before its checksum is correct."""

import io
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from lit_prune.data import cifar10
from lit_prune.errors import InputError
from tests.safety.gadgets import shell

Members = list[tarfile.TarInfo]


@pytest.fixture
def folder(fake_cifar10: Path, tmp_path: Path) -> Path:
    """Make a data folder inside another folder, without a network to download the original from."""
    folder = tmp_path / "home" / "data"
    folder.mkdir(parents=True)
    return folder


def inventory(folder: Path) -> dict[str, bytes | None]:
    return {str(path): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def device(name: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = tarfile.FIFOTYPE
    return info


MEMBERS: dict[str, Callable[[Path], Members]] = {
    "above": lambda home: [tarfile.TarInfo("../evil")],
    "far above": lambda home: [tarfile.TarInfo("cifar-10-batches-py/../../../evil")],
    "absolute": lambda home: [tarfile.TarInfo(str(home / "evil"))],
    "link": lambda home: [link("cifar-10-batches-py", str(home)), tarfile.TarInfo("cifar-10-batches-py/evil")],
    "link above": lambda home: [link("out", ".."), tarfile.TarInfo("out/evil")],
    "hard link": lambda home: [link("cifar-10-batches-py/test_batch", "/etc/passwd", tarfile.LNKTYPE)],
    "pipe": lambda home: [device("cifar-10-batches-py/test_batch")],
    "harmless": lambda home: [tarfile.TarInfo("cifar-10-batches-py/more")],
}


def write_archive(path: Path, members: Members) -> None:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            tar.addfile(member, io.BytesIO())


@pytest.mark.parametrize("name", MEMBERS)
def test_no_member_of_another_archive_is_unpacked(folder, name):
    home = folder.parent
    write_archive(folder / cifar10.ARCHIVE, MEMBERS[name](home))
    before = inventory(home.parent)
    with pytest.raises(
        InputError, match=r"^Expected .* with the MD5 \w+\), but got no such file, and CIFAR-10 could not"
    ):
        cifar10.prepare(folder, ["train", "test"])
    after = inventory(home.parent)
    assert after.pop(str(folder / cifar10.FOLDER), None) is None  # the empty folder for arrays
    assert after == before


def test_the_archives_are_real(tmp_path):
    """Unpacked without checks, their members leave the folder."""
    for name in ("above", "absolute", "link", "link above"):
        home = tmp_path / name
        (home / "data").mkdir(parents=True)
        write_archive(home / "evil.tar.gz", MEMBERS[name](home))
        with tarfile.open(home / "evil.tar.gz") as tar:
            # Python 3.11.3 and older have no filter, and trust every member
            trust: Any = {"filter": "fully_trusted"} if hasattr(tarfile, "fully_trusted_filter") else {}
            tar.extractall(home / "data", **trust)  # noqa: S202 - shows the danger
        assert (home / "evil").is_file()


def exchanged_batches(archive: Path, folder: Path, name: str, content: bytes) -> None:
    """Make unpacked batches, all original but one."""
    shutil.copytree(archive.parent / CIFAR10.base_folder, folder / CIFAR10.base_folder)
    (folder / CIFAR10.base_folder / name).write_bytes(content)


@pytest.mark.parametrize("name", ["data_batch_1", "data_batch_5", "test_batch", "batches.meta"])
def test_only_original_pickles_are_unpickled(fake_cifar10, folder, name):
    canary = folder / "canary"
    exchanged_batches(fake_cifar10, folder, name, pickle.dumps(shell(canary)))
    with pytest.raises(InputError, match=r"and CIFAR-10 could not be downloaded"):
        cifar10.prepare(folder, ["train", "test"])
    assert not canary.exists()
    pickle.loads((folder / CIFAR10.base_folder / name).read_bytes())  # noqa: S301 - shows the danger
    assert canary.exists()


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch"])
def test_a_gadget_next_to_the_original_archive_is_not_opened(fake_cifar10, folder, name):
    """The data come from the archive, which is complete; unpacked files next to it are not opened."""
    canary = folder / "canary"
    exchanged_batches(fake_cifar10, folder, name, pickle.dumps(shell(canary)))
    shutil.copy(fake_cifar10, folder / cifar10.ARCHIVE)
    cifar10.prepare(folder, ["train", "test"])
    assert not canary.exists()
    assert len(cifar10.open_split(folder, "train").images) == cifar10.SIZES["train"]


def _object(path: Path, canary: Path) -> None:
    array = np.empty(cifar10.SIZES["train"], dtype=object)
    array[0] = shell(canary)
    with path.open("wb") as file:
        np.save(file, array, allow_pickle=True)


def _archive(path: Path, canary: Path) -> None:
    array = np.empty(1, dtype=object)
    array[0] = shell(canary)
    with path.open("wb") as file:
        np.savez(file, images=array)


def _pickle(path: Path, canary: Path) -> None:
    path.write_bytes(pickle.dumps(shell(canary)))


def _header(path: Path, canary: Path) -> None:
    """Write a header with a Python expression instead of a literal; early versions of NumPy evaluated it."""
    header = f"{{'descr': __import__('os').system('touch {canary}'), 'fortran_order': False, 'shape': (1,)}}\n".encode()
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


def _claims(path: Path, canary: Path) -> None:
    """Write a header that claims more than any disk holds."""
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (9000000000000000000,)}\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


@pytest.mark.parametrize("write", [_object, _archive, _pickle, _header, _claims])
@pytest.mark.parametrize("name", ["train_images", "train_labels"])
def test_no_array_is_unpickled(fake_cifar10, folder, name, write):
    shutil.copy(fake_cifar10, folder / cifar10.ARCHIVE)
    cifar10.prepare(folder, ["train"])
    (folder / cifar10.ARCHIVE).unlink()
    path, canary = folder / cifar10.FOLDER / f"{name}.npy", folder / "canary"
    write(path, canary)
    for use in (lambda: cifar10.open_split(folder, "train"), lambda: cifar10.prepare(folder, ["train"])):
        with pytest.raises(InputError, match="complete NumPy array"):
            use()
    assert not canary.exists()
    if write in (_object, _archive, _pickle):
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=True)
            found["images"] if write is _archive else found
        assert canary.exists()
