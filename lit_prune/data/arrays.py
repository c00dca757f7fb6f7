"""CIFAR-10 as four plain arrays on disk, checked byte for byte before they are used.

The cache `<data_dir>/cifar10-arrays/{train,test}_{images,labels}.npy` is made once, from torchvision's `CIFAR10`, which
downloads the archive and checks its MD5. An array is used only if it has the right type, shape and SHA-256;
it is memory-mapped and never unpickled, so a damaged or foreign file is refused or replaced.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import shutil
import socket
import sys
import tarfile
import uuid
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, NamedTuple

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from lit_prune.errors import InputError, UnfinishedError, expected

__all__ = ["CLASS_NAMES", "SIZES", "Split", "open_split", "prepare"]

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SIZES = {"train": 50_000, "test": 10_000}
SHA256 = {
    "train_images": "47af8b02cfcfb6cdf3dbbd1969ad7f1b70f4413f6f80f437b020ee4e5bc8304a",
    "train_labels": "f5cfe00b0f00968c0cc5ff3b1d2de51b10e33efa277c2986f4e0fa63e58c9f4f",
    "test_images": "f9b1e2130bab680db56eb06d886f7f1ad0f1183907ceff4659d1735c890f5b04",
    "test_labels": "cbb7365de8ed11f05cc4c3a1e7f78144127c5e851efd83762fb18202461230bb",
}
FOLDER = "cifar10-arrays"
ARCHIVE, ARCHIVE_MD5 = "cifar-10-python.tar.gz", "c58f30108f718f92721af3b95e74349a"
SOCKET_TIMEOUT_S = 20.0
_FULL = (errno.ENOSPC, errno.EDQUOT)

SplitName = Literal["train", "test"]


class Split(NamedTuple):
    """One part of a data set: `images (N, 32, 32, 3) uint8` and `labels (N,) int64`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def open_split(data_dir: Path, split: SplitName) -> Split:
    """Map a part of the cache into memory, read-only, after checking all of it.

    Args:
        data_dir: The folder that holds `cifar10-arrays`.
        split: `"train"` or `"test"`.

    Returns:
        The part's images and labels.

    Raises:
        InputError: If a file is missing or does not hold exactly CIFAR-10's bytes.
    """
    for path, fault in _faults(data_dir, [split]):
        raise expected(_wanted(path), fault, "let `prepare_data` write it anew, or copy it there by hand")
    images, labels = (np.asarray(_map(path)) for path in _paths(data_dir, split))
    return Split(images, labels)


def prepare(data_dir: Path, splits: Iterable[SplitName]) -> None:
    """Make sure that the cache holds these parts, writing what is missing or damaged.

    Several processes may do this at once: each works in a folder of its own and renames finished files into place.
    What a killed one has left is taken away.
    A complete cache in a folder that cannot be written to is fine.

    Args:
        data_dir: The folder that holds, or shall hold, `cifar10-arrays`.
        splits: The parts that are needed.

    Raises:
        InputError: If CIFAR-10 is neither there nor can be downloaded, or if the folder cannot be written to.
        UnfinishedError: If the disk is full.
    """
    _take_away_leavings(data_dir)
    faults = list(_faults(data_dir, splits))
    if not faults:
        return
    with _scratch(data_dir) as (folder, mark):
        try:
            arrays = _read_original(data_dir, folder, {path.stem.split("_")[0] for path, _ in faults})
        except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _unwritten(folder, error) from error
            raise _unavailable(data_dir, *faults[0], error) from error
        for path, _ in faults:
            _write(path, arrays[path.stem], mark)


def _paths(data_dir: Path, split: str) -> tuple[Path, Path]:
    folder = data_dir / FOLDER
    return folder / f"{split}_images.npy", folder / f"{split}_labels.npy"


def _map(path: Path) -> NDArray[Any]:
    # Not `np.load`, which would also open an .npz archive; this reads nothing but a plain array.
    return np.lib.format.open_memmap(path, mode="r")


def _wanted(path: Path) -> str:
    return f"{str(path)!r} with the SHA-256 {SHA256[path.stem]}"


def _faults(data_dir: Path, splits: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Name each file of these parts that cannot be used, and why."""
    for split in splits:
        for path in _paths(data_dir, split):
            if (fault := _fault(path)) is not None:
                yield path, fault


def _fault(path: Path) -> str | None:
    count = SIZES[path.stem.split("_")[0]]
    shape, kind = ((count, 32, 32, 3), "uint8") if path.stem.endswith("images") else ((count,), "int64")
    if not path.is_file():
        return "no such file"
    try:
        array = _map(path)
    except OSError as error:
        return f"a file that cannot be read ({error.strerror})"
    except Exception:  # a damaged header makes NumPy's reader, and what of Python it uses, raise anything
        return "a file that is no complete NumPy array"
    if array.shape != shape or array.dtype != np.dtype(kind):
        return f"an array of shape {array.shape} and type {array.dtype}"
    if not array.flags.c_contiguous:
        return "an array in column order"
    found = _sha256(array)
    return None if found == SHA256[path.stem] else f"the SHA-256 {found}"


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _read_original(data_dir: Path, scratch: Path, splits: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read these parts through torchvision: from the folder, from the archive in it, or from the network."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    with _quiet(), _socket_timeout(SOCKET_TIMEOUT_S):
        root = data_dir
        try:
            CIFAR10(root, train=False)
        except RuntimeError:  # torchvision's word for "not there, or its MD5 is wrong"
            root = scratch
            if check_integrity(data_dir / ARCHIVE, ARCHIVE_MD5):
                extract_archive(str(data_dir / ARCHIVE), str(scratch))
        arrays: dict[str, NDArray[Any]] = {}
        for split in splits:
            original = CIFAR10(root, train=split == "train", download=root == scratch)
            arrays[f"{split}_images"] = np.ascontiguousarray(original.data)
            arrays[f"{split}_labels"] = np.array(original.targets, dtype=np.int64)
    for name, array in arrays.items():
        if (found := _sha256(array)) != SHA256[name]:
            raise RuntimeError(f"its {name} have the SHA-256 {found}")
    return arrays


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep torchvision's remarks out of stdout, and its warnings about decade-old pickles away from everybody."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _socket_timeout(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _unavailable(data_dir: Path, path: Path, fault: str, error: Exception) -> InputError:
    return expected(
        f"{_wanted(path)}, or CIFAR-10 itself to make it from ({str(data_dir / ARCHIVE)!r} with the MD5 {ARCHIVE_MD5})",
        f"{fault}, and CIFAR-10 could not be downloaded: {error}",
        "name the folder that holds it with `--data.data_dir`, put the archive there by hand, "
        "or use `--data.source synthetic`",
    )


@contextlib.contextmanager
def _scratch(data_dir: Path) -> Iterator[tuple[Path, str]]:
    """Make a folder for this process alone, and a word that marks what else it writes until it is whole.

    A lock lasts as long as its process, so that what a killed one has left can be told from what is being written.
    """
    mark = uuid.uuid4().hex
    lock, folder = (data_dir / f".{FOLDER}-{mark}{suffix}" for suffix in (".lock", ""))
    try:
        (data_dir / FOLDER).mkdir(parents=True, exist_ok=True)
        held = FileLock(lock)
        held.acquire()
        folder.mkdir(0o700)
    except OSError as error:
        if error.errno in _FULL:
            raise _unwritten(folder, error) from error
        raise expected(
            f"a data folder {str(data_dir)!r} that can be written to",
            f"{type(error).__name__} ({error.strerror})",
            "name another one with `--data.data_dir`, or use `--data.source synthetic`",
        ) from error
    try:
        yield folder, mark
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)  # while it is held, so that nobody takes the folder for left
        held.release()


def _take_away_leavings(data_dir: Path) -> None:
    """Take away what processes that are gone have left; a process that is at work holds its lock."""
    for path in data_dir.glob(f".{FOLDER}-*.lock"):
        # somebody else's, or gone by now
        with contextlib.suppress(OSError, Timeout), FileLock(path, timeout=0):
            mark = path.stem.removeprefix(f".{FOLDER}-")
            for part in (data_dir / FOLDER).glob(f"*.{mark}.part"):
                part.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)


def _write(path: Path, array: NDArray[Any], mark: str) -> None:
    """Write beside the target and rename, so that nobody ever sees half a file."""
    part = path.with_name(f"{path.name}.{mark}.part")
    try:
        with part.open("xb") as file:
            # for a real file NumPy leaves the writing to C, and does not know what the disk said
            np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> UnfinishedError:
    found = f"{type(error).__name__} ({error.strerror})"
    hint = "make room or name another folder with `--data.data_dir`"
    return UnfinishedError(str(expected(f"to write {str(path)!r}", found, hint)))
