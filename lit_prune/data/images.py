"""The user's own images, made into what a network for CIFAR-10 looks at."""

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from lit_prune.errors import InputError, expected

__all__ = ["NamedImages", "read_images"]

SIDE = 32
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
PICTURE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".gif", ".heic", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)


class NamedImages(NamedTuple):
    """Images `(N, 32, 32, 3) uint8` and the N names of their files."""

    images: NDArray[np.uint8]
    names: list[str]


def read_images(path: Path) -> NamedImages:
    """Read one image, or all the images of a folder, sorted by name.

    PNG and JPEG are told by their content, not by their name. In a folder, hidden files, subfolders and files that
    neither are such images nor are called like pictures (`labels.txt`) are left out; a picture of another format is an
    error, so that none is missed in silence.

    Each image is turned upright as its EXIF says, put on white where it is transparent, cut to its middle square and
    resized to 32x32 pixels with antialiasing. Images of 16 bits a channel are scaled to 8.

    Args:
        path: A file or a folder.

    Returns:
        The images and their names.

    Raises:
        InputError: If nothing is there, if there is no image, or if a file cannot be read as one.
    """
    if path.is_dir():
        files = [file for file in sorted(path.iterdir()) if _is_meant(file)]
        if not files:
            raise expected(
                f"PNG or JPEG images in the folder {str(path)!r}", "none", "put some there, not in subfolders"
            )
    elif path.exists():
        files = [path]
    else:
        raise expected(f"an image or a folder of images at {str(path)!r}", "nothing", "check `--data.predict_path`")
    return NamedImages(np.stack([_read(file) for file in files]), [file.name for file in files])


def _is_meant(file: Path) -> bool:
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
    # a pipe would be waited for, and a device may have no end
    if not file.is_file() or not _head(file).startswith(MAGIC):
        raise expected(f"a PNG or JPEG image in {str(file)!r}", "something else", "convert it or take it away")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # odd but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=("PNG", "JPEG")) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_to_rgb(upright), (SIDE, SIDE), Image.Resampling.BICUBIC)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise expected(
                f"an image of at most {Image.MAX_IMAGE_PIXELS} pixels in {str(file)!r}", "more", "make it smaller"
            ) from error
        except (OSError, SyntaxError, ValueError) as error:  # Pillow raises all three over damaged files
            raise _unreadable(file, error) from error
    return np.asarray(square)


def _unreadable(file: Path, error: Exception) -> InputError:
    return expected(
        f"a whole image in {str(file)!r}", f"a file that cannot be read ({error})", "replace it or take it away"
    )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16 bits a pixel to 255, which is white
        return Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
