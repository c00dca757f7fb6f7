"""Read image files as RGB images of 32x32 pixels, like those of CIFAR-10."""

import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from lit_prune.errors import expected, one_line

SIDE = 32
MAGIC = (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff")
# formats that Pillow recognises but cannot decode, and EPS, for which it would start another program
_REFUSED = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"}
# suffixes of pictures that Pillow cannot read, or only in some versions
_PICTURES = {".avif", ".emf", ".eps", ".heic", ".heif", ".jxl", ".svg", ".wmf"}


class NamedImages(NamedTuple):
    """Images `(N, 32, 32, 3) uint8` and the names of their files."""

    images: NDArray[np.uint8]
    names: list[str]


class _UnreadableError(Exception):
    """Raised if an image cannot be read; the message is a phrase that says why."""


def read_images(path: Path) -> NamedImages:
    """Read one image, or all images of a folder and its subfolders, sorted by name.

    Reads all formats that Pillow reads, except EPS. In a folder, a file is taken as an image if its suffix is that of
    an image format, or if its content begins like a PNG or JPEG file. All other files, such as `labels.txt`, and hidden
    files and folders are ignored. Images that cannot be read are skipped, with a warning that lists all of them.

    Images are rotated according to their EXIF data, put on a white background if they are transparent, cropped to the
    central square, and resized to 32x32 pixels with antialiasing. 16-bit channels are scaled to 8 bits.

    Raises:
        InputError: If the path does not exist, or if no image can be read.
    """
    formats = _formats()
    if path.is_dir():
        names = [str(file.relative_to(path)) for file in sorted(path.rglob("*")) if _is_image(file, path, formats)]
    elif path.exists():
        names = [""]
    else:
        raise expected(f"an image or a folder of images at {str(path)!r}", "nothing", "check `--data.predict_path`")
    images: dict[str, NDArray[np.uint8]] = {}
    faults: list[str] = []
    for name in names:
        try:
            images[name or path.name] = _read(path / name, formats)
        except _UnreadableError as error:
            faults.append(f"{str(path / name)!r} ({error})")
    if not images:
        found = f"none that can be read: {', '.join(faults)}" if faults else "none"
        raise expected(f"images in {str(path)!r}", found, "convert pictures to PNG or JPEG")
    if faults:
        warnings.warn(
            f"Skipped {len(faults)} of {len(names)} images, because they cannot be read: {', '.join(faults)}.",
            stacklevel=2,
        )
    return NamedImages(np.stack(list(images.values())), list(images))


def _formats() -> dict[str, set[str]]:
    """Return the formats that are read, each with the suffixes of its files."""
    Image.init()
    suffixes = Image.registered_extensions().items()
    return {name: {suffix for suffix, of in suffixes if of == name} for name in Image.OPEN if name not in _REFUSED}


def _is_image(file: Path, folder: Path, formats: dict[str, set[str]]) -> bool:
    if any(part.startswith(".") for part in file.relative_to(folder).parts) or not file.is_file():
        return False
    if file.suffix.lower() in _PICTURES.union(*formats.values()):
        return True
    try:
        with file.open("rb") as stream:
            return stream.read(max(map(len, MAGIC))).startswith(MAGIC)
    except OSError:  # the file may be an image; reading it will fail, and this will be reported
        return True


def _read(file: Path, formats: Iterable[str]) -> NDArray[np.uint8]:
    if not file.is_file():  # reading a pipe would wait, and reading a device might never stop
        raise _UnreadableError("not a file")
    with warnings.catch_warnings(action="ignore"):  # warnings about unusual but harmless metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            with Image.open(file, formats=list(formats)) as image:
                image.load()
                upright = ImageOps.exif_transpose(image)
                square = ImageOps.fit(_to_rgb(upright), (SIDE, SIDE), Image.Resampling.BICUBIC)
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise _UnreadableError(f"more than {Image.MAX_IMAGE_PIXELS} pixels") from error
        except UnidentifiedImageError as error:
            raise _UnreadableError("not an image, or of an unknown format") from error
        except Exception as error:  # the decoders of Pillow raise errors of many kinds for damaged files
            raise _UnreadableError(one_line(error)) from error
    return np.asarray(square)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # Pillow would clip 16-bit values to 255, which is white
        return Image.fromarray(np.round(np.asarray(image) / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, of an unknown range")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
    return image.convert("RGB")
