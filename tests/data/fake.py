"""A fake CIFAR-10 of sixty images: archive, folder of pickles and checksums, in the original format."""

import hashlib
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from torchvision.datasets import CIFAR10

from lit_prune.data import cifar10

SIZES = {"train": 50, "test": 10}
BATCHES = {"train": [f"data_batch_{number}" for number in range(1, 6)], "test": ["test_batch"]}
NO_NETWORK = "http://127.0.0.1:9/"


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()


def make(folder: Path) -> Path:
    """Write the archive, always with the same content."""
    rng = np.random.default_rng(0)
    batches = folder / CIFAR10.base_folder
    batches.mkdir(parents=True)
    for name in [*BATCHES["train"], *BATCHES["test"]]:
        pixels = rng.integers(0, 256, (10, 3072), np.uint8)
        (batches / name).write_bytes(pickle.dumps({"data": pixels, "labels": rng.permutation(10).tolist()}))
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": list(cifar10.CLASS_NAMES)}))
    archive = folder / cifar10.ARCHIVE
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(batches, CIFAR10.base_folder)
    return archive


def expected_arrays(folder: Path) -> dict[str, np.ndarray]:
    """Read the pickles without torchvision."""
    found: dict[str, np.ndarray] = {}
    for split, names in BATCHES.items():
        entries = [pickle.loads((folder / CIFAR10.base_folder / name).read_bytes()) for name in names]  # noqa: S301
        rows = [row for entry in entries for row in entry["data"]]
        found[f"{split}_images"] = np.stack([np.stack(row.reshape(3, 32, 32), axis=-1) for row in rows])
        found[f"{split}_labels"] = np.array([label for entry in entries for label in entry["labels"]])
    return found


def install(archive: Path, put: Callable[[Any, str, Any], None]) -> None:
    """Make lit-prune and torchvision accept this archive as the original, and disable downloads."""
    batches = archive.parent / CIFAR10.base_folder
    checksums = {name: [[part, md5(batches / part)] for part in parts] for name, parts in BATCHES.items()}
    put(CIFAR10, "url", NO_NETWORK)
    put(CIFAR10, "tgz_md5", md5(archive))
    put(CIFAR10, "train_list", checksums["train"])
    put(CIFAR10, "test_list", checksums["test"])
    put(CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5(batches / "batches.meta")})
    put(cifar10, "ARCHIVE_MD5", md5(archive))
    put(cifar10, "SIZES", SIZES)
    found = expected_arrays(archive.parent)
    put(cifar10, "SHA256", {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in found.items()})


def prepare(rank: int, archive: Path, folder: Path) -> None:
    """Write the cache in another process, which fixtures do not reach."""
    install(archive, setattr)
    cifar10.prepare(folder, ["train", "test"])
