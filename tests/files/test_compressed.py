"""Compressed files restore every bit, open in safetensors, and are refused when they are damaged or lie."""

import contextlib
import json
import tracemalloc
import zlib

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from lit_prune.errors import InputError
from lit_prune.files.compressed import (
    _DTYPES,
    _crc32,
    _deflate,
    compressed_size,
    load_compressed,
    read_compressed,
    write_compressed,
)


def bits(tensor):
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def same(a, b):
    return list(a) == list(b) and all(bits(a[name]) == bits(b[name]) for name in a)


def sparse(*shape, sparsity=0.9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    # not a product, which would leave zeros with a sign
    return torch.randn(shape, generator=generator).masked_fill(torch.rand(shape, generator=generator) < sparsity, 0.0)


def forged(path, tensors, entries, **texts):
    """Write a file with a correct checksum, whose metadata say something else than its tensors."""
    stored = {
        n: torch.frombuffer(bytearray(t), dtype=torch.uint8) if isinstance(t, bytes) else t for n, t in tensors.items()
    }
    said = {"lit_prune.tensors": entries if isinstance(entries, str) else json.dumps(entries)}
    summed = {"lit_prune.crc32": _crc32(stored, said)}
    path.write_bytes(safetensors.torch.save(stored, {"lit_prune.format": "1"} | said | summed | texts))
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


@given(st.sampled_from(list(_DTYPES.values())), st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**32 - 1))
@settings(max_examples=100, deadline=None)
def test_every_bit_comes_back(tmp_path_factory, dtype, shape, seed):
    rng = np.random.default_rng(seed)
    width = dtype.itemsize
    raw = rng.integers(0, 2 if dtype == torch.bool else 256, (int(np.prod(shape)), width), dtype=np.uint8)
    raw[rng.random(len(raw)) < rng.random()] = 0
    tensor = torch.from_numpy(raw.reshape(-1)).view(dtype).reshape(shape)
    path = tmp_path_factory.getbasetemp() / "any"
    write_compressed({"x": tensor}, path)
    assert same(load_compressed(path), {"x": tensor})


def test_negative_zeros_nans_and_denormals_are_restored(tmp_path):
    odd = {"x": torch.tensor([0.0, -0.0, float("nan"), -float("inf"), 1e-45, 3.0])}
    write_compressed(odd, tmp_path / "file")
    assert same(load_compressed(tmp_path / "file"), odd)


def test_tensors_of_any_memory_layout_are_written(tmp_path):
    state = {
        "last": sparse(4, 3, 5, 5).to(memory_format=torch.channels_last),
        "turned": sparse(6, 4).T,
        "part": sparse(8, 8)[::2, 1::3],
        "parameter": torch.nn.Parameter(sparse(3, 3)),
    }
    write_compressed(state, tmp_path / "file")
    assert same(load_compressed(tmp_path / "file"), state)


def test_values_of_negated_views_are_written(tmp_path):
    views = {"packed": sparse(64, 32)._neg_view(), "unpacked": sparse(3)._neg_view()}
    write_compressed(views, tmp_path / "file")
    assert all(torch.equal(tensor, views[name]) for name, tensor in load_compressed(tmp_path / "file").items())


def test_an_empty_state_is_written_and_read(tmp_path):
    write_compressed({}, tmp_path / "file")
    assert load_compressed(tmp_path / "file") == {}


def test_metadata_are_stored_with_the_tensors(file):
    state, metadata = read_compressed(file)
    assert metadata == {"author": "me"}
    assert same(state, load_compressed(file))


@pytest.mark.parametrize(("sparsity", "share"), [(0.3, 0.70), (0.6, 0.42), (0.9, 0.13), (1.0, 0.01)])
def test_sparser_weights_take_fewer_bytes(tmp_path, sparsity, share):
    """The bounds are below bit mask and values, which take 1/32 + (1 - sparsity)."""
    state = {"x": sparse(400, 250, sparsity=sparsity)}
    write_compressed(state, tmp_path / "file")
    size = (tmp_path / "file").stat().st_size
    assert size < share * 400 * 250 * 4
    assert size - 500 < compressed_size(state) < size


def test_dense_weights_are_no_larger_than_they_were(tmp_path):
    assert compressed_size({"x": torch.randn(1000)}) < 4000
    assert compressed_size({"x": torch.tensor(3)}) == 8


@pytest.mark.parametrize(
    "tensor",
    [torch.zeros(2, dtype=torch.complex64), torch.eye(2).to_sparse(), torch.zeros(2, device="meta")],
    ids=["complex", "sparse", "meta"],
)
def test_tensors_without_plain_bytes_are_refused(tmp_path, tensor):
    with pytest.raises(InputError, match=r"^Expected dense tensors of float64, .*, but got `x` of torch\..*\. HINT: "):
        write_compressed({"x": tensor}, tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_other_tools_open_the_file(tmp_path):
    """Tensors that do not get smaller are stored as they are; of the others, mask and values can be read."""
    weight = sparse(64, 32, sparsity=0.5)
    write_compressed({"weight": weight, "count": torch.tensor(3)}, tmp_path / "file", {"author": "me"})
    with safe_open(tmp_path / "file", "np") as file:
        assert set(file.keys()) == {"count", "weight.mask", "weight.values"}
        assert file.get_tensor("count") == 3
        assert file.metadata()["author"] == "me"
        assert json.loads(file.metadata()["lit_prune.tensors"]) == {"weight": ["float32", [64, 32]], "count": None}
        mask = np.unpackbits(np.frombuffer(inflate(file.get_tensor("weight.mask")), np.uint8)).astype(bool)
        planes = np.frombuffer(inflate(file.get_tensor("weight.values")), np.uint8)
    assert np.array_equal(mask, weight.flatten().numpy() != 0)
    values = planes.reshape(4, -1).T.copy().view("<f4").reshape(-1)
    assert np.array_equal(values, weight.flatten().numpy()[mask])


def inflate(part):
    return zlib.decompress(part.tobytes(), wbits=-15)


def test_names_that_end_like_parts_are_kept_apart(tmp_path):
    state = {
        f"a{part}": sparse(40, 40, seed=seed) for seed, part in enumerate(["", ".mask", ".values", ".values.mask"])
    }
    write_compressed(state, tmp_path / "file")
    assert same(load_compressed(tmp_path / "file"), state)


def test_a_flipped_bit_is_noticed_or_changes_nothing(file):
    """In the padding of the header, a flipped bit can change nothing."""
    whole = file.read_bytes()
    state, metadata = read_compressed(file)
    harmless = 0
    for place in range(0, len(whole), 3):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1 << place % 8]) + whole[place + 1 :])
        try:
            read = read_compressed(file)
        except InputError:
            continue
        assert same(read[0], state)
        assert read[1] == metadata
        harmless += 1
    assert harmless < 10


def test_missing_and_added_bytes_are_noticed(file):
    whole = file.read_bytes()
    for changed in (b"", whole[:4], whole[:9], whole[:40], whole[: len(whole) // 2], whole[:-1], whole + b"\0"):
        file.write_bytes(changed)
        assert "which is something else, truncated or damaged" in refusal(file)


def test_other_files_are_refused_in_one_sentence(tmp_path):
    path = tmp_path / "x"
    assert f"`{path}`, which does not exist" in refusal(path)
    path.write_bytes(safetensors.torch.save({"x": torch.ones(3)}))
    assert f"a file that `lit-prune export --compress` wrote, in format 1, but got `{path}` in another" in refusal(path)
    path.write_bytes(b"litprune" + b"\x02\0\0\0{}" + bytes(32))  # what versions before the first release wrote
    assert f"but got `{path}`, which is something else" in refusal(path)


def test_a_newer_format_is_named(tmp_path):
    path = forged(tmp_path / "file", {}, {}, **{"lit_prune.format": "2"})
    assert f"but got `{path}` in format '2'. HINT: if a newer lit-prune wrote the file, run `pip" in refusal(path)


ZEROS, ONES = _deflate(bytes(32)), _deflate(bytes([1] * 32))


def test_a_forged_file_with_true_metadata_is_read(tmp_path):
    """Otherwise the tests below could not fail."""
    path = forged(tmp_path / "file", {"x.values": ONES}, {"x": ["float32", [8]]})
    assert load_compressed(path)["x"].view(torch.uint8).tolist() == [1] * 32


@pytest.mark.parametrize(
    "described",
    [
        3,
        [3],
        "x",
        ["float32"],
        ["float32", [8], 1],
        [3, [8]],
        ["object", [8]],
        ["complex64", [4]],
        [["float32"], [8]],
        ["float32", 8],
        ["float32", "8"],
        ["float32", [-8]],
        ["float32", [8.0]],
        ["float32", [True] * 8],
        ["float32", [7]],
        ["float32", [9]],
        ["float64", [8]],
        ["float32", [2**62, 4]],
        ["float32", [1] * 65],
        ["float32", [0, 2**62, 2**62]],
        ["float32", {"8": 1}],
        None,
    ],
)
def test_metadata_that_make_no_sense_are_refused(tmp_path, described):
    path = forged(tmp_path / "file", {"x.values": ONES}, {"x": described})
    assert refusal(path) == f"`{path}` is damaged. Copy or export it again."


@pytest.mark.parametrize("text", ["{", "[" * 100_000, "3", "null", '"x"', "[[]]", '{"y": ["float32", [8]]}', "\ud800"])
def test_metadata_that_are_no_entries_are_refused(tmp_path, text):
    if text.isprintable():
        assert "is damaged" in refusal(forged(tmp_path / "file", {"x.values": ONES}, text))


@pytest.mark.parametrize("missing", ["lit_prune.tensors", "lit_prune.crc32"])
def test_missing_metadata_are_refused(tmp_path, missing):
    stored, texts = {"x": torch.ones(3)}, {"lit_prune.tensors": '{"x": null}'}
    texts["lit_prune.crc32"] = _crc32(stored, {n: t for n, t in texts.items() if n != missing})
    path = tmp_path / "file"
    path.write_bytes(
        safetensors.torch.save(stored, {"lit_prune.format": "1"} | {n: t for n, t in texts.items() if n != missing})
    )
    assert "is damaged" in refusal(path)


@pytest.mark.parametrize(
    "parts",
    [
        {},
        {"x.mask": _deflate(b"\xff")},
        {"x.values": b"\xff\xff\xff"},
        {"x.values": _deflate(bytes(31))},
        {"x.values": _deflate(bytes(33))},
        {"x.values": ZEROS + b"\0"},
        {"x.values": ZEROS[:-1]},
        {"x.values": ZEROS, "x.mask": _deflate(b"\x7f")},
        {"x.values": ZEROS, "x.mask": _deflate(b"\xff\xff")},
        {"x.values": ZEROS, "x.mask": torch.zeros(0, dtype=torch.uint8)},
        {"x.values": torch.zeros(8)},
    ],
)
def test_parts_that_do_not_unpack_to_the_tensor_are_refused(tmp_path, parts):
    assert "is damaged" in refusal(forged(tmp_path / "file", parts, {"x": ["float32", [8]]}))


def test_a_small_file_cannot_fill_the_memory(tmp_path):
    huge = {"x": ["float32", [2**20, 2**20]]}
    path = forged(tmp_path / "file", {"x.values": _deflate(b""), "x.mask": _deflate(b"")}, huge)
    tracemalloc.start()
    said = refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert "a file of at most 4,294,967,296 bytes when unpacked" in said
    assert f"`{path}`, whose tensors take 4,398,046,511,104" in said


def test_a_part_that_unpacks_to_more_than_its_tensor_takes_no_memory(tmp_path):
    path = forged(tmp_path / "file", {"x.values": _deflate(bytes(50_000_000))}, {"x": ["float32", [8]]})
    tracemalloc.start()
    assert "is damaged" in refusal(path)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_limit_can_be_lowered(file):
    assert same(load_compressed(file, limit=64 * 32 * 4 + 8), load_compressed(file))
    assert "a file of at most 8,199 bytes" in refusal(file, limit=64 * 32 * 4 + 7)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_random_metadata_and_bytes_with_a_correct_checksum_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "random"
    write_compressed({"a": sparse(16, 16), "b": torch.tensor(3)}, path, {"author": "me"})
    with safe_open(path, "pt") as opened:
        text = bytearray(opened.metadata()["lit_prune.tensors"].encode())
        tensors = {
            name: bytearray(opened.get_tensor(name).view(-1).view(torch.uint8).numpy())
            for name in opened.keys()  # noqa: SIM118
        }
    for _ in range(data.draw(st.integers(1, 3))):
        changed = data.draw(st.sampled_from([text, *tensors.values()]))
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    forged(path, {name: bytes(content) for name, content in tensors.items()}, text.decode("utf-8", "replace"))
    with contextlib.suppress(InputError):  # nothing else may be raised
        assert sum(tensor.nbytes for tensor in load_compressed(path, limit=2000).values()) <= 2000
