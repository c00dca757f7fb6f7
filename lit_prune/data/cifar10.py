"""Cache CIFAR-10 in four NumPy files, and verify the SHA-256 of their arrays before use.

The files `<data_dir>/cifar10-arrays/{train,test}_{images,labels}.npy` are written once, from torchvision's `CIFAR10`,
which downloads the archive and verifies its MD5. The NumPy files are memory-mapped and never unpickled.
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

from lit_prune.errors import UnfinishedError, expected

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
    """Training or test set: `images (N, 32, 32, 3) uint8` and `labels (N,) int64`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def open_split(data_dir: Path, split: SplitName) -> Split:
    """Verify the cached files of a split and memory-map them, read-only.

    Raises:
        InputError: If a file is missing, or if its content is not exactly that of CIFAR-10.
    """
    for path, fault in _faults(data_dir, [split]):
        raise expected(_wanted(path), fault, "call `prepare_data`, which writes the file, or copy it yourself")
    images, labels = (np.asarray(_map(path)) for path in _paths(data_dir, split))
    return Split(images, labels)


def prepare(data_dir: Path, splits: Iterable[SplitName]) -> None:
    """Write the cached files that are missing or damaged; nothing is written to a complete cache.

    Several processes may call this at the same time: each unpacks into its own temporary folder, and renames finished
    files into place. Temporary files left behind by killed processes are removed.

    Raises:
        InputError: If CIFAR-10 is not in `data_dir` and cannot be downloaded, or if `data_dir` is not writable.
        UnfinishedError: If the disk is full.
    """
    _remove_stale_files(data_dir)
    faults = list(_faults(data_dir, splits))
    if not faults:
        return
    with _scratch(data_dir) as (folder, mark):
        try:
            arrays = _read_original(data_dir, folder, {path.stem.split("_")[0] for path, _ in faults})
        except (OSError, RuntimeError, EOFError, tarfile.TarError, http.client.HTTPException) as error:
            if isinstance(error, OSError) and error.errno in _FULL:
                raise _unwritten(folder, error) from error
            path, fault = faults[0]
            archive = f"{str(data_dir / ARCHIVE)!r} with the MD5 {ARCHIVE_MD5}"
            raise expected(
                f"{_wanted(path)}, or the CIFAR-10 archive to create it from ({archive})",
                f"{fault}, and CIFAR-10 could not be downloaded: {error}",
                "give the folder of CIFAR-10 with `--data.data_dir`, copy the archive to the path named for it, "
                "or use `--data.source synthetic`",
            ) from error
        for path, _ in faults:
            _write(path, arrays[path.stem], mark)


def _paths(data_dir: Path, split: str) -> tuple[Path, Path]:
    folder = data_dir / FOLDER
    return folder / f"{split}_images.npy", folder / f"{split}_labels.npy"


def _map(path: Path) -> NDArray[Any]:
    # not `np.load`, which would also open an .npz archive
    return np.lib.format.open_memmap(path, mode="r")


def _wanted(path: Path) -> str:
    return f"an array with the SHA-256 {SHA256[path.stem]} in {str(path)!r}"


def _faults(data_dir: Path, splits: Iterable[str]) -> Iterator[tuple[Path, str]]:
    """Yield each cached file that cannot be used, and the reason."""
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
    except Exception:  # NumPy raises errors of any type for damaged headers
        return "a file that is not a complete NumPy array"
    if array.shape != shape or array.dtype != np.dtype(kind):
        return f"an array of shape {array.shape} and type {array.dtype}"
    if not array.flags.c_contiguous:
        return "an array in column-major order"
    found = _sha256(array)
    return None if found == SHA256[path.stem] else f"an array with the SHA-256 {found}"


def _sha256(array: NDArray[Any]) -> str:
    return hashlib.sha256(array.reshape(-1).view(np.uint8).data).hexdigest()


def _read_original(data_dir: Path, scratch: Path, splits: Iterable[str]) -> dict[str, NDArray[Any]]:
    """Read splits with torchvision from `data_dir` (unpacked files or the archive), or download them."""
    from torchvision.datasets import CIFAR10
    from torchvision.datasets.utils import check_integrity, extract_archive

    with contextlib.ExitStack() as stack:
        # torchvision prints to stdout, warns about old pickle formats, and waits for a silent server without a timeout
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        stack.enter_context(warnings.catch_warnings(action="ignore"))
        stack.callback(socket.setdefaulttimeout, socket.getdefaulttimeout())
        socket.setdefaulttimeout(SOCKET_TIMEOUT_S)
        root = data_dir
        try:
            CIFAR10(root, train=False)
        except RuntimeError:  # files are missing or have a wrong MD5
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
            raise RuntimeError(f"the {name} have the wrong SHA-256 {found}")
    return arrays


@contextlib.contextmanager
def _scratch(data_dir: Path) -> Iterator[tuple[Path, str]]:
    """Yield a temporary folder for this process, and a unique suffix for the names of its other temporary files.

    The process locks a file until it leaves the context: temporary files whose lock no process holds are stale.
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
            "give another folder with `--data.data_dir`, or use `--data.source synthetic`",
        ) from error
    try:
        yield folder, mark
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.unlink(missing_ok=True)  # before the release, so that no other process can lock the file
        held.release()


def _remove_stale_files(data_dir: Path) -> None:
    """Remove the temporary files of killed processes: those whose lock no process holds."""
    for path in data_dir.glob(f".{FOLDER}-*.lock"):
        # the lock may be held by a running process, belong to another user, or be deleted meanwhile
        with contextlib.suppress(OSError, Timeout), FileLock(path, timeout=0):
            mark = path.stem.removeprefix(f".{FOLDER}-")
            for part in (data_dir / FOLDER).glob(f"*.{mark}.part"):
                part.unlink(missing_ok=True)
            shutil.rmtree(path.with_suffix(""), ignore_errors=True)
            path.unlink(missing_ok=True)


def _write(path: Path, array: NDArray[Any], mark: str) -> None:
    """Write an array to a temporary file, then rename the file, so that no process reads half of it."""
    part = path.with_name(f"{path.name}.{mark}.part")
    try:
        with part.open("xb") as file:
            # pass only `write`: NumPy writes real files in C and does not notice a full disk
            np.save(SimpleNamespace(write=file.write), array, allow_pickle=False)
        os.replace(part, path)
    except OSError as error:
        raise _unwritten(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _unwritten(path: Path, error: OSError) -> UnfinishedError:
    return UnfinishedError(
        f"Cannot write to `{path}`: {error.strerror}. Free some space, or give another folder with `--data.data_dir`."
    )
