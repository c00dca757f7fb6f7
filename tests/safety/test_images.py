"""Images that would fill the memory, and files of other kinds, are refused before they are decoded."""

import os
import re
import resource
import struct
import time
import zlib
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lit_prune.data.images import read_images
from lit_prune.errors import InputError

REFUSED = r"Expected images in '[^\n]+', but got none that can be read: '{path}' \(%s\)\. HINT: .*"
BOMB = REFUSED % r"more than \d+ pixels"
DAMAGED = REFUSED % r"[^\n]+"
OTHER = REFUSED % "not an image, or of an unknown format"


def png(width: int, height: int, pixels: bytes, *more: tuple[bytes, bytes]) -> bytes:
    """Build a PNG whose checksums are correct, whatever it claims."""
    header = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), *more, (b"IDAT", pixels), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )


@cache
def zeros(megabytes: int) -> bytes:
    """Return zeros, compressed to a thousandth of their size."""
    compressor = zlib.compressobj(9)
    parts = [compressor.compress(bytes(2**20)) for _ in range(megabytes)]
    return b"".join(parts) + compressor.flush()


def jpeg(side: int) -> bytes:
    """Build a JPEG that claims another size than it has."""
    path = Path("small.jpg")
    Image.new("RGB", (16, 16)).save(path)
    content = path.read_bytes()
    start = content.index(b"\xff\xc0") + 5
    return content[:start] + struct.pack(">HH", side, side) + content[start + 4 :]


def cut(kind: str) -> bytes:
    path = Path(f"whole.{kind}")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)).save(path)
    return path.read_bytes()[:2000]


FINE = zlib.compress(bytes(97 * 32))
BAD: dict[str, tuple[Callable[[], bytes], str]] = {
    "claims 50000 x 50000": (lambda: png(50_000, 50_000, FINE), BOMB),
    "claims a line of 2^31": (lambda: png(2**31 - 1, 1, FINE), BOMB),
    "is 12000 x 12000 in half a megabyte": (lambda: png(12_000, 12_000, zeros(413)), BOMB),
    "JPEG that claims 65500 x 65500": (lambda: jpeg(65_500), BOMB),
    "no pixels": (lambda: png(0, 0, b""), DAMAGED),
    "text of 100 MB": (lambda: png(32, 32, FINE, (b"zTXt", b"a\0\0" + zeros(100))), DAMAGED),
    "international text of 100 MB": (lambda: png(32, 32, FINE, (b"iTXt", b"a\0\1\0\0\0" + zeros(100))), DAMAGED),
    "colour profile of 100 MB": (lambda: png(32, 32, FINE, (b"iCCP", b"a\0\0" + zeros(100))), DAMAGED),
    "much text of 1 MB": (
        lambda: png(32, 32, FINE, *[(b"zTXt", b"%d\0\0" % key + zlib.compress(bytes(10**6))) for key in range(99)]),
        DAMAGED,
    ),
    "chunk longer than the file": (lambda: png(32, 32, FINE)[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT", DAMAGED),
    "truncated PNG": (lambda: cut("png"), DAMAGED),
    "truncated JPEG": (lambda: cut("jpg"), DAMAGED),
    "PNG's first bytes": (lambda: b"\x89PNG\r\n\x1a\n", DAMAGED),
    "JPEG's first bytes": (lambda: b"\xff\xd8\xff", DAMAGED),
    "SVG": (lambda: b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>", OTHER),
    "truncated GIF": (lambda: cut("gif"), DAMAGED),
    "truncated BMP": (lambda: cut("bmp"), DAMAGED),
    "truncated TIFF": (lambda: cut("tiff"), DAMAGED),
    "GIF that claims 65500 x 65500": (lambda: b"GIF89a" + struct.pack("<HH", 65_500, 65_500) + cut("gif")[10:], BOMB),
    "BMP that claims 50000 x 50000": (
        lambda: b"BM" + struct.pack("<6I2H6I", 99, 0, 54, 40, 50_000, 50_000, 1, 24, *6 * [0]),
        BOMB,
    ),
    "PostScript": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(x) run\n", OTHER),
    "empty": (lambda: b"", OTHER),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("in_folder", [False, True], ids=["file", "folder"])
@pytest.mark.gate
def test_bad_images_are_refused_in_one_sentence(tmp_path, monkeypatch, name, in_folder):
    monkeypatch.chdir(tmp_path)
    content, sentence = BAD[name][0](), BAD[name][1]
    path = tmp_path / "images" / "a.png"
    path.parent.mkdir()
    path.write_bytes(content)
    began, memory = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError) as error:
        read_images(path.parent if in_folder else path)
    assert re.fullmatch(sentence.replace("{path}", re.escape(str(path))), str(error.value))
    assert time.monotonic() - began < 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 150_000  # KiB


def test_data_after_an_image_are_not_unpacked(tmp_path):
    """The image is small, followed by 413 MB of further pixels."""
    path = tmp_path / "a.png"
    path.write_bytes(png(32, 32, zeros(413)))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_images(path).images.shape == (1, 32, 32, 3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 100_000  # KiB


def test_a_pipe_is_refused_at_once(tmp_path):
    path = tmp_path / "a.png"
    os.mkfifo(path)
    with pytest.raises(InputError) as error:
        read_images(path)
    assert re.fullmatch((REFUSED % "not a file").replace("{path}", re.escape(str(path))), str(error.value))
