"""A data cache that is damaged while it is used, and writers that are killed.

For files that are truncated, flipped, pickled, of another shape or type, or replaced, see `tests/data/test_cifar10.py`.
"""

import os
import shutil
import signal
import time
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from torch.multiprocessing.spawn import start_processes

from lit_prune.data import cifar10
from lit_prune.errors import InputError
from tests import processes as processes  # one server imports, every process is a fork of it
from tests.data import fake
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10

WHOLE = {"train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"}


def assert_right(folder, source):
    wanted = fake.expected_arrays(source.parent)
    for split in ("train", "test"):
        found = cifar10.open_split(folder, split)
        np.testing.assert_array_equal(found.images, wanted[f"{split}_images"])
        np.testing.assert_array_equal(found.labels, wanted[f"{split}_labels"])


def write_half(source, folder):
    """Prepare the arrays, and hang in the middle of writing one."""
    save, written = np.save, []

    def stop(file, array, **options):
        written.append(array)
        if len(written) < 3:
            save(file, array, **options)
            return
        file.write(array.tobytes()[: array.nbytes // 2])
        (folder.parent / "half").touch()
        time.sleep(600)

    setattr(np, "save", stop)  # noqa: B010 - in its own process; mypy knows another signature
    fake.prepare(0, source, folder)


@pytest.fixture
def halfway(fake_cifar10, tmp_path):
    """A data folder, and a process in the middle of writing there."""
    folder = tmp_path / "data"
    folder.mkdir()
    shutil.copy(fake_cifar10, folder)
    process = get_context("forkserver").Process(target=write_half, args=(fake_cifar10, folder), daemon=True)
    process.start()
    end = time.monotonic() + 120
    while not (tmp_path / "half").exists():
        assert process.is_alive()
        assert time.monotonic() < end
        time.sleep(0.02)
    yield folder, process
    process.kill()
    process.join()


def kill(process):
    os.kill(process.pid, signal.SIGKILL)
    process.join()


def stale_files(folder):
    """Names of files that are neither the archive nor a complete array."""
    kept = WHOLE | {"cifar10-arrays", "cifar-10-python.tar.gz"}
    return {path.name for path in [*folder.iterdir(), *(folder / "cifar10-arrays").iterdir()]} - kept


def test_the_files_of_a_killed_writer_are_not_used_and_then_removed(halfway, fake_cifar10):
    folder, process = halfway
    kill(process)
    left = stale_files(folder)
    assert {Path(name).suffix for name in left} == {"", ".lock", ".part"}
    with pytest.raises(InputError, match="no such file"):
        cifar10.open_split(folder, "test" if (folder / "cifar10-arrays/train_images.npy").exists() else "train")
    cifar10.prepare(folder, ["train", "test"])
    assert stale_files(folder) == set()
    assert_right(folder, fake_cifar10)


def test_the_files_of_a_running_writer_are_left_to_it(halfway, fake_cifar10):
    folder, process = halfway
    before = stale_files(folder)
    cifar10.prepare(folder, ["train", "test"])  # does not wait for it, either
    assert_right(folder, fake_cifar10)
    assert stale_files(folder) == before
    assert process.is_alive()
    # once it is gone, the next process removes them, even if all arrays are complete
    kill(process)
    cifar10.prepare(folder, ["train", "test"])
    assert stale_files(folder) == set()
    assert_right(folder, fake_cifar10)


def test_a_temporary_folder_that_a_running_writer_could_own_stays(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    unlocked = tmp_path / ".cifar10-arrays-of-another-program"
    unlocked.mkdir()
    cifar10.prepare(tmp_path, ["train", "test"])
    assert stale_files(tmp_path) == {unlocked.name}


@pytest.mark.parametrize("source", [True, False], ids=["with the archive", "without it"])
def test_labels_in_another_order_are_not_used(fake_cifar10, tmp_path, source):
    shutil.copy(fake_cifar10, tmp_path)
    cifar10.prepare(tmp_path, ["train", "test"])
    path = tmp_path / "cifar10-arrays/train_labels.npy"
    labels = np.load(path)
    np.save(path, labels[::-1].copy())  # right shape, type and number of images of each class
    if source:
        cifar10.prepare(tmp_path, ["train"])
        assert_right(tmp_path, fake_cifar10)
    else:
        (tmp_path / fake_cifar10.name).unlink()
        with pytest.raises(InputError, match=r"the SHA-256 [0-9a-f]{64}.*could not be downloaded"):
            cifar10.prepare(tmp_path, ["train"])
        with pytest.raises(InputError, match="the SHA-256"):
            cifar10.open_split(tmp_path, "train")
    assert stale_files(tmp_path) == set()


def test_arrays_in_use_stay_valid_when_the_file_is_replaced(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    cifar10.prepare(tmp_path, ["train", "test"])
    used = cifar10.open_split(tmp_path, "test")
    before = used.images.copy()
    path = tmp_path / "cifar10-arrays/test_images.npy"
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"")
    cifar10.prepare(tmp_path, ["test"])
    path.with_suffix(".old").unlink()
    np.testing.assert_array_equal(used.images, before)
    assert_right(tmp_path, fake_cifar10)


@pytest.mark.parametrize("number", [2, 4])
def test_several_processes_prepare_in_one_folder_at_once(fake_cifar10, tmp_path, number):
    shutil.copy(fake_cifar10, tmp_path)
    start_processes(fake.prepare, (fake_cifar10, tmp_path), nprocs=number, start_method="forkserver")
    assert_right(tmp_path, fake_cifar10)
    assert stale_files(tmp_path) == set()
