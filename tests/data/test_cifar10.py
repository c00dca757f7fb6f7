"""The cache is used only if it holds exactly CIFAR-10's bytes."""

import functools
import http.server
import os
import pickle
import re
import shutil
import threading
from typing import get_args

import numpy as np
import pytest
from torchvision.datasets import CIFAR10

from lit_prune.data import cifar10
from lit_prune.errors import InputError, UnfinishedError
from tests.data import fake
from tests.processes import run_two


def cache_of(folder):
    return {path.stem: path for path in (folder / "cifar10-arrays").iterdir()}


def assert_right(folder, archive):
    for split in ("train", "test"):
        wanted, found = fake.expected_arrays(archive.parent), cifar10.open_split(folder, split)
        np.testing.assert_array_equal(found.images, wanted[f"{split}_images"])
        np.testing.assert_array_equal(found.labels, wanted[f"{split}_labels"])
    assert set(cache_of(folder)) == set(wanted)  # no temporary files are left


@pytest.fixture
def ready(fake_cifar10, tmp_path):
    """A data folder with a complete cache and without the archive."""
    shutil.copytree(fake_cifar10.parent / CIFAR10.base_folder, tmp_path / CIFAR10.base_folder)
    cifar10.prepare(tmp_path, ["train", "test"])
    shutil.rmtree(tmp_path / CIFAR10.base_folder)
    return tmp_path


def truncate(path):
    os.truncate(path, path.stat().st_size - 1)


def empty(path):
    path.write_bytes(b"")


def flip_a_bit(path):
    content = bytearray(path.read_bytes())
    content[np.random.default_rng().integers(128, len(content))] ^= 1 << np.random.default_rng().integers(8)
    path.write_bytes(content)


def pickle_it(path):
    path.write_bytes(pickle.dumps(np.load(path)))


def pickle_inside(path):
    np.save(path, np.array([Bomb()], dtype=object))


def archive_it(path):
    array = np.load(path)
    with path.open("wb") as file:
        np.savez(file, array)


def reshape(path):
    np.save(path, np.load(path)[1:])


def retype(path):
    np.save(path, np.load(path).astype(np.int32))


def turn(path):
    np.save(path, np.asfortranarray(np.load(path)[::-1]))


class Bomb:
    def __reduce__(self):
        return pytest.fail, ("an array was unpickled",)


FAULTS = [truncate, empty, flip_a_bit, pickle_it, pickle_inside, archive_it, reshape, retype, turn]


def test_the_constants_are_those_of_torchvision():
    assert (CIFAR10.filename, CIFAR10.tgz_md5) == (cifar10.ARCHIVE, cifar10.ARCHIVE_MD5)


def test_real_arrays_are_accepted(cifar10_dir):
    cifar10.prepare(cifar10_dir, ["train", "test"])
    for split in get_args(cifar10.SplitName):
        size = cifar10.SIZES[split]
        found = cifar10.open_split(cifar10_dir, split)
        assert found.images.shape == (size, 32, 32, 3)
        np.testing.assert_array_equal(np.bincount(found.labels), [size // 10] * 10)
        assert isinstance(found.images.base, np.memmap)
        assert not found.images.flags.writeable


def test_the_cache_is_made_from_the_unpacked_folder(fake_cifar10, tmp_path):
    shutil.copytree(fake_cifar10.parent / CIFAR10.base_folder, tmp_path / CIFAR10.base_folder)
    cifar10.prepare(tmp_path, ["train", "test"])
    assert_right(tmp_path, fake_cifar10)


def test_the_cache_is_made_from_the_archive(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    cifar10.prepare(tmp_path, ["train", "test"])
    assert_right(tmp_path, fake_cifar10)
    assert {path.name for path in tmp_path.iterdir()} == {"cifar10-arrays", fake_cifar10.name}


def test_the_cache_is_made_from_a_download(fake_cifar10, tmp_path, monkeypatch, capfd):
    class Silent(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Silent, directory=str(fake_cifar10.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{fake_cifar10.name}")
        cifar10.prepare(tmp_path, ["test", "train"])
        server.shutdown()
    assert_right(tmp_path, fake_cifar10)
    assert [path.name for path in tmp_path.iterdir()] == ["cifar10-arrays"]
    assert capfd.readouterr().out == ""


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("name", ["train_images", "test_labels"])
def test_a_damaged_array_is_refused(ready, name, fault):
    path = cache_of(ready)[name]
    fault(path)
    split: cifar10.SplitName = "train" if name.startswith("train") else "test"
    other: cifar10.SplitName = "test" if split == "train" else "train"
    wanted = re.escape(f"an array with the SHA-256 {cifar10.SHA256[name]} in {str(path)!r}, ")
    with pytest.raises(
        InputError, match=f"{wanted}or the CIFAR-10 archive .*, but got (a file|an array) .*, and CIFAR"
    ):
        cifar10.prepare(ready, [split])
    with pytest.raises(InputError, match=f"{wanted}but got (a file|an array) "):
        cifar10.open_split(ready, split)
    cifar10.prepare(ready, [other])
    assert len(cifar10.open_split(ready, other).labels) == fake.SIZES[other]


@pytest.mark.parametrize("fault", FAULTS)
def test_only_damaged_arrays_are_written_again(ready, fake_cifar10, fault):
    shutil.copy(fake_cifar10, ready)
    damaged = cache_of(ready).pop("train_images")
    before = {path: path.stat().st_ino for path in cache_of(ready).values()}
    fault(damaged)
    cifar10.prepare(ready, ["train", "test"])
    assert_right(ready, fake_cifar10)
    assert {path for path, inode in before.items() if path.stat().st_ino != inode} == {damaged}


def test_a_damaged_archive_is_not_used(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    truncate(tmp_path / fake_cifar10.name)
    with pytest.raises(InputError, match="and CIFAR-10 could not be downloaded"):
        cifar10.prepare(tmp_path, ["train"])


def test_other_pixels_with_the_right_md5_are_not_used(fake_cifar10, tmp_path, monkeypatch):
    shutil.copy(fake_cifar10, tmp_path)
    monkeypatch.setitem(cifar10.SHA256, "test_images", "0" * 64)
    with pytest.raises(InputError, match=r"but got no such file, .*test_images have the wrong SHA-256 [0-9a-f]{64}"):
        cifar10.prepare(tmp_path, ["test"])
    assert cache_of(tmp_path) == {}


def test_missing_data_without_a_network_are_reported_with_a_hint(tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", fake.NO_NETWORK)
    with pytest.raises(
        InputError, match=r"or the CIFAR-10 archive .*, but got no such file, and CIFAR-10 could not be down"
    ):
        cifar10.prepare(tmp_path / "new", ["train", "test"])
    assert [path.name for path in (tmp_path / "new").rglob("*")] == ["cifar10-arrays"]


def test_a_folder_that_cannot_be_written_to_is_reported(fake_cifar10, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"/file/data' that can be written to, but got NotADirectoryError"):
        cifar10.prepare(tmp_path / "file" / "data", ["train"])


def test_a_complete_cache_is_only_read(ready):
    before = {path: path.stat().st_mtime_ns for path in [ready, *ready.rglob("*")]}
    cifar10.prepare(ready, ["train", "test"])
    assert {path: path.stat().st_mtime_ns for path in [ready, *ready.rglob("*")]} == before


def test_a_full_disk_leaves_nothing_behind(fake_cifar10, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    shutil.copy(fake_cifar10, tmp_path)
    monkeypatch.setattr(np, "save", fail)
    with pytest.raises(UnfinishedError, match=r"Cannot write to `.*test_images\.npy`: No space left on device"):
        cifar10.prepare(tmp_path, ["test"])
    assert cache_of(tmp_path) == {}


def test_two_processes_may_write_the_cache_at_once(fake_cifar10, tmp_path):
    shutil.copy(fake_cifar10, tmp_path)
    run_two(fake.prepare, fake_cifar10, tmp_path)
    assert_right(tmp_path, fake_cifar10)


def test_files_have_the_usual_permissions(ready):
    mask = os.umask(0o022)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in cache_of(ready).values()} == {0o666 & ~mask}
