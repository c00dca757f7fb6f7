"""Damaged checkpoints: a file is refused, or every tensor is what was written."""

import random
import zipfile
from pathlib import Path

import pytest
import torch

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_state_dict, save

Weights = dict[str, torch.Tensor]
DAMAGED = "is truncated or damaged. Copy or write it again."


@pytest.fixture
def weights() -> Weights:
    return {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40), "count": torch.tensor(3)}


@pytest.fixture
def path(weights: Weights, tmp_path: Path) -> Path:
    save(weights, tmp_path / "x.ckpt")
    return tmp_path / "x.ckpt"


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as error:
        read_state_dict(path)
    return str(error.value)


def directory(path: Path) -> int:
    """Return the position at which the archive's directory begins."""
    with zipfile.ZipFile(path) as archive:
        return archive.start_dir


def flipped(content: bytes, place: int, bit: int) -> bytes:
    changed = bytearray(content)
    changed[place] ^= 1 << bit
    return bytes(changed)


def test_a_file_written_by_us_is_one_that_torch_reads(path, weights):
    assert same(read_state_dict(path), weights)
    assert same(torch.load(path, weights_only=True, mmap=True), weights)


def test_every_flipped_bit_in_a_record_is_noticed(path):
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = {record.filename: archive.read(record) for record in archive.infolist()}
    assert len(records) > 4
    draw = random.SystemRandom()
    for content in records.values():
        start = whole.index(content)
        for place in draw.choices(range(len(content)), k=25) if content else ():
            path.write_bytes(flipped(whole, start + place, draw.randrange(8)))
            assert DAMAGED in refusal(path), place


@pytest.mark.parametrize("part", ["records", "directory"])
def test_a_flipped_bit_anywhere_is_noticed_or_changes_no_tensor(path, weights, part):
    """One in the padding between records changes nothing; one in the directory may, if it is not noticed."""
    whole, start = path.read_bytes(), directory(path)
    places = range(start) if part == "records" else range(start, len(whole))
    noticed = 0
    for place in (drawn := random.SystemRandom().choices(places, k=400)):
        path.write_bytes(flipped(whole, place, random.SystemRandom().randrange(8)))
        try:
            assert same(read_state_dict(path), weights), place
        except InputError:
            noticed += 1
    assert noticed > len(drawn) / 4


def test_a_record_that_a_flipped_bit_makes_a_folder_is_refused(path):
    """Torch reads nothing from such a record, and would return a tensor of uninitialised memory."""
    whole = path.read_bytes()
    name = whole.index(b"archive/data/0", directory(path))
    path.write_bytes(flipped(whole, name - 8, 4))
    assert DAMAGED in refusal(path)


def test_every_truncated_file_is_refused(path):
    whole = path.read_bytes()
    for cut in sorted({*random.SystemRandom().sample(range(4, len(whole)), 80), 4, len(whole) - 1}):
        path.write_bytes(whole[:cut])
        assert DAMAGED in refusal(path), cut


def test_a_file_with_a_comment_is_read(path, weights):
    """Earlier versions wrote a SHA-256 there."""
    with zipfile.ZipFile(path, "a") as archive:
        archive.comment = b"lit-prune sha256:" + b"0" * 64
    assert same(read_state_dict(path), weights)


def test_a_file_without_checksums_is_read_as_it_is(tmp_path, weights):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        save(weights, tmp_path / "unchecked.pt")
    finally:
        torch.serialization.set_crc32_options(before)
    assert same(read_state_dict(tmp_path / "unchecked.pt"), weights)
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert same(read_state_dict(tmp_path / "old.pt"), weights)


def test_compressed_records_are_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10_000_000)
    assert "whose records are compressed" in refusal(tmp_path / "bomb.pt")
