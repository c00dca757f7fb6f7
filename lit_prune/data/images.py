"""Read image files as RGB images of 32x32 pixels, like those of CIFAR-10."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lit_prune.errors import InputError, expected

SIDE = 32
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


class NamedImages(NamedTuple):
    """Images `(N, 32, 32, 3) uint8` and the names of their files."""

    images: NDArray[np.uint8]
    names: list[str]


def read_images(path: Path) -> NamedImages:
    """Read one image, or all images of a folder, sorted by name.

    PNG and JPEG files are recognised by their content. In a folder, hidden files, subfolders and files that are not
    images, such as `labels.txt`, are ignored. An image in another format, such as `.gif`, is an error, so that no image
    is silently missing.

    Images are rotated according to their EXIF data, put on a white background if they are transparent, cropped to the
    central square, and resized to 32x32 pixels with antialiasing. 16-bit channels are scaled to 8 bits.

    Raises:
        InputError: If the path does not exist, if it holds no image, or if an image cannot be read.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if _is_image(file)]
        if not files:
            what = f"PNG or JPEG images in the folder {str(path)!r}"
            raise expected(what, "none", "put images into the folder itself, not into subfolders")
    elif path.exists():
        files = [path]
    else:
        raise expected(f"an image or a folder of images at {str(path)!r}", "nothing", "check `--data.predict_path`")
    return NamedImages(np.stack([_read(file) for file in files]), [file.name for file in files])


def _is_image(file: Path) -> bool:
    if file.name.startswith(".") or not file.is_file():
        return False
    return file.suffix.lower() in PICTURE_SUFFIXES or _head(file).startswith(MAGIC)


def _head(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(max(map(len, MAGIC)))
    except OSError as error:
        raise _unreadable(file, error) from error


def _read(file: Path) -> NDArray[np.uint8]:
    # reading a pipe would wait, and reading a device might never stop
    if not file.is_file() or not _head(file).startswith(MAGIC):
        raise expected(f"a PNG or JPEG image in {str(file)!r}", "another kind of file", "convert or remove it")
    with warnings.catch_warnings(action="ignore"):  # warnings about unusual but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_to_rgb(upright), (SIDE, SIDE), Image.Resampling.BICUBIC)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            what = f"an image of at most {Image.MAX_IMAGE_PIXELS} pixels in {str(file)!r}"
            raise expected(what, "more", "make it smaller") from error
        except (OSError, SyntaxError, ValueError) as error:  # raised by Pillow for damaged files
            raise _unreadable(file, error) from error
    return np.asarray(square)


def _unreadable(file: Path, error: Exception) -> InputError:
    what = f"a complete image in {str(file)!r}"
    return expected(what, f"a file that cannot be read ({error})", "replace or remove it")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16-bit values to 255, which is white
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
