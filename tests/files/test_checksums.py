"""Checksums of checkpoints: every flipped bit is noticed or harmless, and the file stays torch's."""

import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_state_dict
from lit_prune.files.checksums import fault_of, seal

Weights = dict[str, torch.Tensor]


@pytest.fixture
def weights() -> Weights:
    return {"a.weight": torch.randn(40, 30), "a.bias": torch.randn(40), "count": torch.tensor(3)}


def write(weights: Weights, path: Path, sealed: bool) -> bytes:
    torch.save(weights, path)
    if sealed:
        seal(path)
    return path.read_bytes()


def fault(content: bytes) -> str | None:
    return fault_of(io.BytesIO(content))


def same(one: Weights, other: Weights) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_a_sealed_file_is_whole_and_stays_torchs(weights, tmp_path):
    plain = write(weights, tmp_path / "plain.pt", sealed=False)
    sealed = write(weights, tmp_path / "plain.pt", sealed=True)
    assert len(sealed) == len(plain) + 81
    assert fault(plain) is None
    assert fault(sealed) is None
    assert same(torch.load(tmp_path / "plain.pt", weights_only=True), weights)
    assert same(torch.load(tmp_path / "plain.pt", weights_only=True, mmap=True), weights)
    assert same(read_state_dict(tmp_path / "plain.pt"), weights)
    assert zipfile.ZipFile(tmp_path / "plain.pt").testzip() is None


def test_a_file_is_sealed_once(weights, tmp_path):
    once = write(weights, tmp_path / "plain.pt", sealed=True)
    seal(tmp_path / "plain.pt")
    assert (tmp_path / "plain.pt").read_bytes() == once


@pytest.mark.parametrize("sealed", [True, False])
def test_a_flipped_bit_is_noticed_or_changes_nothing(weights, tmp_path, sealed):
    path = tmp_path / "flipped.pt"
    whole = write(weights, path, sealed)
    draw = random.SystemRandom()
    noticed = 0
    places = draw.sample(range(len(whole)), 150) + list(range(len(whole) - 120, len(whole)))
    for place in places:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        path.write_bytes(flipped)
        try:
            assert same(read_state_dict(path), weights), place
        except InputError:
            noticed += 1
    assert noticed > len(places) / 2


def test_every_flip_in_the_content_of_a_sealed_file_is_noticed(weights, tmp_path):
    whole = write(weights, tmp_path / "sealed.pt", sealed=True)
    draw = random.SystemRandom()
    for place in draw.sample(range(4, len(whole) - 83), 300):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << draw.randrange(8)
        assert fault(bytes(flipped)) == "whose SHA-256 is not the one that was written with it", place


@pytest.mark.parametrize("sealed", [True, False])
def test_no_truncated_file_is_whole(weights, tmp_path, sealed):
    whole = write(weights, tmp_path / "cut.pt", sealed)
    cuts = sorted({*random.SystemRandom().sample(range(4, len(whole) - 90), 60), len(whole) - 90, 5})
    assert all(fault(whole[:cut]) == "which is truncated or damaged" for cut in cuts)


def test_a_damaged_record_of_somebody_elses_file_is_named(tmp_path, weights):
    whole = write(weights, tmp_path / "other.pt", sealed=False)
    place = whole.index(weights["a.weight"].numpy().tobytes()) + 77
    flipped = bytearray(whole)
    flipped[place] ^= 4
    assert fault(bytes(flipped)) == "whose record `other/data/0` is damaged"


def test_a_file_without_any_checksum_is_taken_as_it_is(tmp_path, weights):
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        assert fault(write(weights, tmp_path / "unchecked.pt", sealed=False)) is None
        assert fault(write(weights, tmp_path / "unchecked.pt", sealed=True)) is None
    finally:
        torch.serialization.set_crc32_options(before)
    torch.save(weights, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert fault((tmp_path / "old.pt").read_bytes()) is None
    assert same(read_state_dict(tmp_path / "old.pt"), weights)


def test_records_that_swell_are_refused_unread(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\0" * 10_000_000)
    with pytest.raises(InputError, match="whose records are compressed, as torch never writes them"):
        read_state_dict(tmp_path / "bomb.pt")
