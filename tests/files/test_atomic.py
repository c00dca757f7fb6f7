"""Files are written completely or not at all."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lit_prune.files.atomic import append, replacing, write_text


@pytest.fixture(params=[0o022, 0o077, 0o002])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_a_complete_file_replaces_the_old_one(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with replacing(path) as part:
        part.write_text("new")
        assert path.read_text() == "old"
        assert part.parent == path.parent  # renaming does not work across file systems
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize("old", ["old", None])
def test_a_block_that_fails_changes_nothing(tmp_path, error, old):
    path = tmp_path / "file.txt"
    if old is not None:
        path.write_text(old)

    def write() -> None:
        with replacing(path) as part:
            part.write_text("half")
            raise error

    with pytest.raises(error):
        write()
    assert [item.name for item in tmp_path.iterdir()] == ([] if old is None else ["file.txt"])
    assert old is None or path.read_text() == old


def test_a_rename_that_fails_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "inside").touch()
    with pytest.raises(OSError, match="directory"):
        write_text(path, "text")
    assert list(tmp_path.iterdir()) == [path]
    assert (path / "inside").exists()


def test_a_missing_folder_is_an_error_and_is_not_created(tmp_path):
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "nowhere" / "file.txt", "text")
    assert list(tmp_path.iterdir()) == []


def test_permissions_are_those_of_any_new_file(tmp_path, umask):
    path, other = tmp_path / "file.txt", tmp_path / "other.txt"
    write_text(path, "text")
    other.write_text("text")
    assert path.stat().st_mode == other.stat().st_mode
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert os.umask(umask) == umask  # reading the mask has not changed it


@pytest.mark.parametrize("text", ["", "ä → 数\n", "a\n" * 1000])
def test_text_is_utf8(tmp_path, text):
    write_text(str(tmp_path / "file.txt"), text)
    assert Path(tmp_path / "file.txt").read_bytes().decode("utf-8").replace("\r\n", "\n") == text


def test_appended_bytes_follow_the_existing_ones(tmp_path):
    path = tmp_path / "file.txt"
    path.write_bytes(b"one\n")
    append(path, b"two\n")
    append(str(path), b"")
    assert path.read_bytes() == b"one\ntwo\n"


def test_appending_to_a_missing_file_does_not_create_it(tmp_path):
    with pytest.raises(FileNotFoundError) as error:
        append(tmp_path / "file.txt", b"two")
    assert str(error.value.filename) == str(tmp_path / "file.txt")
    assert list(tmp_path.iterdir()) == []
