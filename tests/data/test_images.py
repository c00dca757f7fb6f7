"""The user's images reach the network as a person sees them, or are refused with a reason."""

import contextlib
import io
import re
import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lit_prune.data.images import read_images
from lit_prune.errors import InputError

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


FORMATS = ("GIF", "BMP", "TIFF", "WEBP", "PPM", "TGA", "JPEG2000", "ICO", "PCX")


def only(path):
    images, names = read_images(path)
    assert images.shape == (1, 32, 32, 3)
    assert images.dtype == np.dtype("uint8")
    assert names == [path.name]
    return images[0]


def random_image(side=32):
    return Image.fromarray(np.random.default_rng().integers(0, 256, (side, side, 3), np.uint8))


def test_an_image_of_the_right_size_is_not_changed(tmp_path):
    image = random_image()
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(only(tmp_path / "a.png"), image)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (300, 7), (33, 32), (1000, 800)])
def test_any_size_becomes_32_by_32(tmp_path, size):
    Image.new("RGB", size, (10, 20, 30)).save(tmp_path / "a.png")
    assert (only(tmp_path / "a.png") == (10, 20, 30)).all()


def test_the_middle_square_is_kept(tmp_path):
    image = Image.new("RGB", (96, 32), RED)
    image.paste(GREEN, (32, 0, 64, 32))
    image.save(tmp_path / "a.png")
    assert (only(tmp_path / "a.png") == GREEN).all()


def test_shrinking_averages(tmp_path):
    checks = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(checks.astype(np.uint8)).save(tmp_path / "a.png")
    assert abs(only(tmp_path / "a.png").astype(int) - 127.5).max() < 8


@pytest.mark.parametrize(
    ("image", "colour"),
    [
        (Image.new("1", (40, 40), 1), WHITE),
        (Image.new("L", (40, 40), 99), (99, 99, 99)),
        (Image.new("LA", (40, 40), (99, 255)), (99, 99, 99)),
        (Image.new("LA", (40, 40), (99, 0)), WHITE),
        (Image.new("P", (40, 40), RED), RED),
        (Image.new("RGBA", (40, 40), (*BLUE, 255)), BLUE),
        (Image.new("RGBA", (40, 40), (*BLUE, 0)), WHITE),
        (Image.fromarray(np.full((40, 40), 99 * 257, np.uint16)), (99, 99, 99)),
        (Image.fromarray(np.full((40, 40), 65535, np.uint16)), WHITE),
    ],
    ids=["1", "L", "LA", "LA-clear", "P", "RGBA", "RGBA-clear", "I;16", "I;16-white"],
)
def test_every_kind_of_png(tmp_path, image, colour):
    image.save(tmp_path / "a.png")
    assert (only(tmp_path / "a.png") == colour).all()


def test_a_transparent_palette_colour_is_white(tmp_path):
    image = Image.new("P", (32, 32), 0)
    image.putpalette([*RED, *GREEN])
    image.paste(1, (0, 0, 16, 32))
    image.save(tmp_path / "a.png", transparency=0)
    found = only(tmp_path / "a.png")
    assert (found[:, :16] == GREEN).all()
    assert (found[:, 16:] == WHITE).all()


def test_sixteen_bits_a_channel_in_colour(tmp_path):
    rows = b"".join(b"\0" + struct.pack(">3H", 0x6342, 0, 0xFFFF) * 32 for _ in range(32))
    chunks = [(b"IHDR", struct.pack(">2I5B", 32, 32, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    content = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
    assert (only(tmp_path / "a.png") == (0x63, 0, 255)).all()


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_every_kind_of_jpeg(tmp_path, mode):
    image = Image.new("RGB", (50, 60), (200, 100, 50)).convert(mode)
    image.save(tmp_path / "a.jpg", quality=95)
    assert abs(only(tmp_path / "a.jpg").astype(int) - np.asarray(image.convert("RGB"))[0, 0]).max() < 4


@pytest.mark.parametrize("name", ["a.jpg", "a.png"])
def test_exif_turns_the_image_upright(tmp_path, name):
    image = Image.new("RGB", (32, 32), RED)
    image.paste(BLUE, (0, 0, 16, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # the left side of the stored image is the top
    image.save(tmp_path / name, exif=exif, quality=95, subsampling=0)
    found = only(tmp_path / name).astype(int)
    assert abs(found[:14] - BLUE).max() < 10
    assert abs(found[18:] - RED).max() < 10


def test_a_folder_is_read_in_order_and_by_content(tmp_path):
    for name, colour in {"b.png": GREEN, "a.dat": RED, "c.jpeg": BLUE}.items():
        Image.new("RGB", (32, 32), colour).save(tmp_path / name, "JPEG" if name == "c.jpeg" else "PNG", quality=95)
    (tmp_path / "labels.txt").write_text("cat")
    (tmp_path / ".hidden.png").write_text("nothing")
    (tmp_path / "folder.png" / "deeper").mkdir(parents=True)
    (tmp_path / ".folder").mkdir()
    for name in ("folder.png/deeper/a.bmp", ".folder/a.png"):
        Image.new("RGB", (32, 32), WHITE).save(tmp_path / name)
    images, names = read_images(tmp_path)
    assert names == ["a.dat", "b.png", "c.jpeg", "folder.png/deeper/a.bmp"]
    assert abs(images.mean((1, 2)) - [RED, GREEN, BLUE, WHITE]).max() < 4


def assert_refused(path, phrase):
    with pytest.raises(InputError, match=re.escape(phrase)):
        read_images(path)


def test_missing_empty_and_wrong_files_are_refused(tmp_path):
    missing = tmp_path / "missing"
    assert_refused(
        missing,
        f"an image or a folder of images at '{missing}', but got nothing",
    )
    assert_refused(
        tmp_path,
        f"images in '{tmp_path}', but got none. HINT",
    )
    fake = tmp_path / "fake.png"
    fake.write_text("no image")
    for path in (fake, tmp_path):
        assert_refused(path, f"images in '{path}', but got none that can be read: '{fake}' (not an image")


@pytest.mark.parametrize("kind", FORMATS)
def test_what_pillow_reads_is_read(tmp_path, kind):
    image = random_image()
    image.save(tmp_path / "a.png", kind, **({"lossless": True} if kind == "WEBP" else {}))
    if kind == "GIF":
        image = image.quantize().convert("RGB")
        assert abs(only(tmp_path / "a.png").astype(int) - np.asarray(image)).mean() < 4
    else:
        np.testing.assert_array_equal(only(tmp_path / "a.png"), image)


def test_all_images_that_cannot_be_read_are_listed_and_skipped(tmp_path):
    (tmp_path / "in").mkdir()
    random_image().save(tmp_path / "a.png")
    random_image().save(tmp_path / "in" / "e.gif")
    (tmp_path / "b.heic").write_bytes(b"x")
    (tmp_path / "in" / "c.jpg").write_bytes(b"\xff\xd8\xff")
    Image.fromarray(np.ones((32, 32), np.float32)).save(tmp_path / "d.tif")
    with pytest.warns(UserWarning, match="Skipped") as warned:
        images, names = read_images(tmp_path)
    assert names == ["a.png", "in/e.gif"]
    assert len(images) == 2
    (message,) = [str(warning.message) for warning in warned]
    assert message.startswith("Skipped 3 of 5 images, because they cannot be read: ")
    for phrase in ("b.heic' (not an image, or of an unknown format)", "d.tif' (floating-point pixels", "in/c.jpg' ("):
        assert phrase in message


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_a_truncated_image_is_refused(tmp_path, name):
    random_image(64).save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=rf"images in '.*{name}', but got none that can be read: '.*{name}' \("):
        read_images(tmp_path / name)


@pytest.mark.parametrize("factor", [1.1, 3])
def test_a_decompression_bomb_is_refused(tmp_path, monkeypatch, factor):
    random_image(64).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(64 * 64 / factor))
    assert_refused(
        tmp_path / "a.png",
        f"none that can be read: '{tmp_path}/a.png' (more than {int(64 * 64 / factor)} pixels)",
    )


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_damage_anywhere_gives_an_image_or_a_clear_refusal(tmp_path, kind, data):
    stream = io.BytesIO()
    Image.new("RGB", (20, 20), RED).save(stream, kind)
    content = bytearray(stream.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.png"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(InputError):
        only(path)
