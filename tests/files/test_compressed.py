"""Compressed files give back every bit, and nothing but what was written."""

import contextlib
import hashlib
import json
import re
import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lit_prune.errors import InputError
from lit_prune.files.compressed import (
    _DTYPES,
    _deflated,
    compressed_size,
    load_compressed,
    read_compressed,
    write_compressed,
)

HEAD = 12  # the mark and the header's length


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(a, b):
    return list(a) == list(b) and all(bits(a[name]) == bits(b[name]) for name in a)


def sparse(*shape, sparsity=0.9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # not a product, which would leave zeros with a sign
    return torch.randn(shape, generator=generator).masked_fill(torch.rand(shape, generator=generator) < sparsity, 0.0)


def forged(path, change, parts=b""):
    """Write a file whose checksum is right, and whose header says something of somebody's choice."""
    header = {"format": 1, "metadata": {}, "tensors": []}
    text = change(header)
    text = json.dumps(header).encode() if text is None else text
    content = b"litprune" + len(text).to_bytes(4, "little") + text + parts
    path.write_bytes(content + hashlib.sha256(content).digest())
    return path


def refusal(path, **options):
    with pytest.raises(InputError) as error:
        load_compressed(path, **options)
    return str(error.value)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "file"
    write_compressed({"a": sparse(64, 32), "b": torch.tensor(3)}, path, {"author": "me"})
    return path


@given(st.sampled_from(list(_DTYPES)), st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_every_bit_comes_back(tmp_path_factory, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    width = _DTYPES[dtype]
    raw = rng.integers(0, 2 if dtype == torch.bool else 256, (int(np.prod(shape)), width), dtype=np.uint8)
    raw[rng.random(len(raw)) < rng.random()] = 0
    tensor = torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(shape)
    path = tmp_path_factory.getbasetemp() / "any"
    write_compressed({"x": tensor}, path)
    assert same(load_compressed(path), {"x": tensor})


def test_what_is_odd_about_floats_stays(tmp_path):
    odd = {"x": torch.tensor([0.0, -0.0, float("nan"), -float("inf"), 1e-45, 3.0])}
    write_compressed(odd, tmp_path / "file")
    assert same(load_compressed(tmp_path / "file"), odd)


def test_any_layout_in_memory_is_taken(tmp_path):
    state = {
        "last": sparse(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "turned": sparse(6, 4).T,
        "part": sparse(8, 8)[::2, 1::3],
        "parameter": torch.nn.Parameter(sparse(3, 3)),
    }
    write_compressed(state, tmp_path / "file")
    assert same(load_compressed(tmp_path / "file"), state)


def test_nothing_is_a_file_too(tmp_path):
    write_compressed({}, tmp_path / "file")
    assert load_compressed(tmp_path / "file") == {}


def test_texts_are_stored_with_it(file):
    state, metadata = read_compressed(file)
    assert metadata == {"author": "me"}
    assert same(state, load_compressed(file))


@pytest.mark.parametrize(("sparsity", "share"), [(0.3, 0.70), (0.6, 0.42), (0.9, 0.13), (1.0, 0.01)])
def test_the_fewer_weights_the_fewer_bytes(tmp_path, sparsity, share):
    """Below bit mask and values, which is 1/32 + (1 - sparsity)."""
    state = {"x": sparse(400, 250, sparsity=sparsity)}
    write_compressed(state, tmp_path / "file")
    size = (tmp_path / "file").stat().st_size
    assert size < share * 400 * 250 * 4
    assert size - 300 < compressed_size(state) < size


def test_dense_weights_are_no_larger_than_they_were(tmp_path):
    assert compressed_size({"x": torch.randn(1000)}) < 4000


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.zeros(2, device="meta")],
    ids=["complex", "sparse", "meta"],
)
def test_what_has_no_plain_bytes_is_refused(tmp_path, tensor):
    with pytest.raises(InputError, match=r"^Expected dense tensors of float64, .*, but got `x` of torch\..*\. HINT: "):
        write_compressed({"x": tensor}, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_any_flipped_bit_is_noticed(file):
    whole = file.read_bytes()
    for place in {*range(0, len(whole), 97), *range(HEAD), len(whole) - 1}:
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        assert refusal(file).startswith(
            "Expected a file that `lit-prune export --compress` wrote" if place < 8 else "Expected a whole compressed"
        )


def test_any_missing_or_added_byte_is_noticed(file):
    whole = file.read_bytes()
    for changed in (b"", whole[:4], whole[:9], whole[:40], whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        file.write_bytes(changed)
        assert re.match(
            r"Expected a (file that|whole compressed file).*, but got `.*`, wh.*\. HINT: .*\.", refusal(file)
        )


def test_no_file_is_one_sentence(tmp_path):
    assert refusal(tmp_path / "x") == (
        f"Expected the path of a compressed file, but got `{tmp_path / 'x'}`, where there is no file. "
        "HINT: check the path."
    )


def test_a_newer_format_is_named(tmp_path):
    path = forged(tmp_path / "file", lambda header: header.update(format=2))
    assert refusal(path) == (
        f"Expected a compressed file in format 1, but got `{path}` in another. "
        "HINT: `pip install --upgrade lit-prune` if a newer version wrote it."
    )


def entry(**changes):
    return {"name": "x", "dtype": "float32", "shape": [8], "kept": 8, "parts": [0, 0, 0, 0]} | changes


@pytest.mark.parametrize(
    "tensors",
    [
        3,
        [3],
        [{"name": "x"}],
        [entry(more=1)],
        [entry(name=3)],
        [entry(dtype="object")],
        [entry(dtype=["float32"])],
        [entry(shape=8)],
        [entry(shape=[-8])],
        [entry(shape=[8.0])],
        [entry(shape=[True] * 8)],
        [entry(shape=[2**62, 4])],
        [entry(shape=[1] * 65)],
        [entry(shape=[0, 2**62, 2**62], kept=0)],
        [entry(kept=-1)],
        [entry(kept=9)],
        [entry(kept="8")],
        [entry(parts=[0, 0, 0])],
        [entry(parts=[0, 0, 0, -1])],
        [entry(parts=None)],
        [entry(kept=4)],
        [entry(), entry()],
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, tensors):
    path = forged(tmp_path / "file", lambda header: header.update(tensors=tensors))
    assert refusal(path) == (
        f"Expected a whole compressed file, but got `{path}`, whose header describes no tensors. "
        "HINT: copy or write it again."
    )


@pytest.mark.parametrize(
    ("text", "how"),
    [
        (b"{", "is no JSON"),
        (b"\xff", "is no JSON"),
        (b"[" * 100_000, "is no JSON"),
        (b"3", "says something else"),
        (b"{}", "says something else"),
        (b'{"format": 1, "tensors": [], "metadata": {"a": 1}}', "says something else"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path, text, how):
    assert f"whose header {how}" in refusal(forged(tmp_path / "file", lambda header: text))


def test_a_header_longer_than_its_file_is_refused(tmp_path):
    content = b"litprune" + b"\xff\xff\xff\xff" + b"{}"
    (tmp_path / "file").write_bytes(content + hashlib.sha256(content).digest())
    assert "whose header is longer than it can be" in refusal(tmp_path / "file")


ZEROS = _deflated(bytes(8))
ONE = _deflated(b"\1")


@pytest.mark.parametrize(
    ("changes", "parts", "how"),
    [
        ({}, [], "whose parts are not as long as its header says"),
        ({}, [b"\xff\xff\xff"] * 4, "whose parts cannot be unpacked"),
        ({}, [ZEROS, ZEROS, ZEROS, _deflated(bytes(7))], "whose parts do not unpack to what its header says"),
        ({}, [ZEROS, ZEROS, ZEROS, _deflated(bytes(9))], "whose parts do not unpack to what its header says"),
        ({}, [ZEROS, ZEROS, ZEROS, ZEROS + b"\0"], "whose parts do not unpack to what its header says"),
        ({}, [ZEROS, ZEROS, ZEROS, ZEROS[:-1]], "whose parts do not unpack to what its header says"),
        ({"kept": 1}, [_deflated(b"\3"), ONE, ONE, ONE, ONE], "whose mask of `x` does not keep what its header says"),
    ],
)
def test_parts_that_are_not_what_the_header_says_are_refused(tmp_path, changes, parts, how):
    # a header that says nothing of parts promises some all the same
    lengths = [len(part) for part in parts] or [1, 1, 1, 1]
    described = entry(parts=lengths, **changes)
    path = forged(tmp_path / "file", lambda header: header.update(tensors=[described]), b"".join(parts))
    assert how in refusal(path)


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    shape = [2**20, 2**20]
    huge = entry(shape=shape, kept=0, parts=[1, 0, 0, 0, 0])
    path = forged(tmp_path / "file", lambda header: header.update(tensors=[huge]), b"\3")
    assert refusal(path) == (
        f"Expected a file of at most 4,294,967,296 bytes when it is unpacked, but got `{path}`, whose tensors take "
        "4,398,046,511,104. HINT: raise the `limit` if you trust it."
    )


def test_a_part_that_unpacks_to_more_than_it_shall_takes_no_memory(tmp_path):
    bomb = _deflated(bytes(50_000_000))
    parts = [len(bomb), len(ZEROS), len(ZEROS), len(ZEROS)]
    path = forged(tmp_path / "file", lambda h: h.update(tensors=[entry(parts=parts)]), bomb + ZEROS * 3)
    tracemalloc.start()
    assert "do not unpack" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_a_limit_can_be_lowered(file):
    assert same(load_compressed(file, limit=64 * 32 * 4 + 8), load_compressed(file))
    assert "Expected a file of at most 8,199 bytes" in refusal(file, limit=64 * 32 * 4 + 7)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_bytes_at_random_under_a_right_checksum_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random"
    write_compressed({"a": sparse(8, 4), "b": torch.tensor(3)}, path, {"author": "me"})
    content = bytearray(path.read_bytes()[:-32])
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(8, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(bytes(content) + hashlib.sha256(content).digest())
    with contextlib.suppress(InputError):  # nothing else may be raised
        assert sum(tensor.nbytes for tensor in load_compressed(path, limit=1000).values()) <= 1000
