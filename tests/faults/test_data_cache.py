"""A data cache that others spoil while it is used, and writers that are killed.

Files that are truncated, flipped, pickled, of another shape or type, and made anew: `tests/data/test_arrays.py`.
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

from lit_prune.data import arrays
from lit_prune.errors import InputError
from tests import processes as processes  # one server imports, every process is a fork of it
from tests.data import fake
from tests.data.conftest import archive as archive  # fixtures
from tests.data.conftest import fake_cifar10 as fake_cifar10

WHOLE = {"train_images.npy", "train_labels.npy", "test_images.npy", "test_labels.npy"}


def assert_right(folder, source):
    wanted = fake.expected_arrays(source.parent)
    for split in ("train", "test"):
        found = arrays.open_split(folder, split)
        np.testing.assert_array_equal(found.images, wanted[f"{split}_images"])
        np.testing.assert_array_equal(found.labels, wanted[f"{split}_labels"])


def write_half(source, folder):
    """Prepare the arrays, but stop in the middle of one for good."""
    save, written = np.save, []

    def stop(file, array, **options):
        written.append(array)
        if len(written) < 3:
            save(file, array, **options)
            return
        file.write(array.tobytes()[: array.nbytes // 2])
        (folder.parent / "half").touch()
        time.sleep(600)

    setattr(np, "save", stop)  # noqa: B010 - a process of its own, and mypy knows another signature
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


def leavings(folder):
    """What is neither the archive nor a whole array."""
    kept = WHOLE | {"cifar10-arrays", "cifar-10-python.tar.gz"}
    return {path.name for path in [*folder.iterdir(), *(folder / "cifar10-arrays").iterdir()]} - kept


def test_what_a_killed_writer_leaves_is_not_used_and_taken_away(halfway, fake_cifar10):
    folder, process = halfway
    kill(process)
    left = leavings(folder)
    assert {Path(name).suffix for name in left} == {"", ".lock", ".part"}
    with pytest.raises(InputError, match="but got no such file"):
        arrays.open_split(folder, "test" if (folder / "cifar10-arrays/train_images.npy").exists() else "train")
    arrays.prepare(folder, ["train", "test"])
    assert leavings(folder) == set()
    assert_right(folder, fake_cifar10)


def test_what_a_living_writer_has_is_left_to_it(halfway, fake_cifar10):
    folder, process = halfway
    before = leavings(folder)
    arrays.prepare(folder, ["train", "test"])  # does not wait for it, either
    assert_right(folder, fake_cifar10)
    assert leavings(folder) == before
    assert process.is_alive()
    # once it is gone, whoever comes next takes it away, also where all arrays are there
    kill(process)
    arrays.prepare(folder, ["train", "test"])
    assert leavings(folder) == set()
    assert_right(folder, fake_cifar10)


def test_scratch_that_cannot_be_told_from_that_of_a_living_writer_stays(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    unlocked = tmp_path / ".cifar10-arrays-of-another-program"
    unlocked.mkdir()
    arrays.prepare(tmp_path, ["train", "test"])
    assert leavings(tmp_path) == {unlocked.name}


@pytest.mark.parametrize("source", [True, False], ids=["with the archive", "without it"])
def test_labels_of_another_file_are_not_used(fake_cifar10, tmp_path, source):
    shutil.copy(fake_cifar10, tmp_path)
    arrays.prepare(tmp_path, ["train", "test"])
    path = tmp_path / "cifar10-arrays/train_labels.npy"
    labels = np.load(path)
    np.save(path, labels[::-1].copy())  # of the right shape, type and number of each class
    if source:
        arrays.prepare(tmp_path, ["train"])
        assert_right(tmp_path, fake_cifar10)
    else:
        (tmp_path / fake_cifar10.name).unlink()
        with pytest.raises(InputError, match=r"but got the SHA-256 [0-9a-f]{64}, and CIFAR-10 could not be downloaded"):
            arrays.prepare(tmp_path, ["train"])
        with pytest.raises(InputError, match="but got the SHA-256"):
            arrays.open_split(tmp_path, "train")
    assert leavings(tmp_path) == set()


def test_arrays_in_use_stay_when_the_file_is_made_anew(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    arrays.prepare(tmp_path, ["train", "test"])
    used = arrays.open_split(tmp_path, "test")
    before = used.images.copy()
    path = tmp_path / "cifar10-arrays/test_images.npy"
    path.rename(path.with_suffix(".old"))
    path.write_bytes(b"")
    arrays.prepare(tmp_path, ["test"])
    path.with_suffix(".old").unlink()
    np.testing.assert_array_equal(used.images, before)
    assert_right(tmp_path, fake_cifar10)


@pytest.mark.parametrize("number", [2, 4])
def test_several_processes_prepare_in_one_folder_at_once(fake_cifar10, tmp_path, number):
    shutil.copy(fake_cifar10, tmp_path)
    start_processes(fake.prepare, (fake_cifar10, tmp_path), nprocs=number, start_method="forkserver")
    assert_right(tmp_path, fake_cifar10)
    assert leavings(tmp_path) == set()
