"""Generate synthetic images of ten classes, without files or a network connection.

Each image shows a shape at a random position, size and angle, in a random colour on a background of another random
colour, with a brightness gradient and noise. A shape is brighter than its background as often as darker, so the average
image is the same for all classes: a linear classifier learns almost nothing, and a network must recognise shapes.
"""

from collections.abc import Callable
from functools import cache

import numpy as np
from numpy.typing import NDArray

from lit_prune.data.cifar10 import Split, SplitName
from lit_prune.data.randomness import Purpose, generator, permutation

SIZES = {"train": 10_000, "test": 2_000}
SIDE = 32
NOISE = 24  # largest absolute value of the noise, for pixels from 0 to 255

_Plane = NDArray[np.float32]


def _radius(u: _Plane, v: _Plane) -> _Plane:
    return np.hypot(u, v)


def _reach(u: _Plane, v: _Plane) -> _Plane:
    return np.maximum(np.abs(u), np.abs(v))


def _plus(u: _Plane, v: _Plane) -> _Plane:
    return np.maximum(_reach(u, v) - 1, np.minimum(np.abs(u), np.abs(v)) - 0.28)


# by class: approximate distance of the point (u, v) from a shape of size 1, negative inside; u points right, v down
_FIGURES: dict[str, Callable[[_Plane, _Plane], _Plane]] = {
    "disc": lambda u, v: _radius(u, v) - 0.95,
    "square": lambda u, v: _reach(u, v) - 0.85,
    "triangle": lambda u, v: np.maximum(v - 0.7, 0.87 * np.abs(u) - 0.5 * v - 0.5),
    "ring": lambda u, v: np.abs(_radius(u, v) - 0.75) - 0.22,
    "frame": lambda u, v: np.abs(_reach(u, v) - 0.7) - 0.2,
    "plus": _plus,
    "saltire": lambda u, v: _plus((u + v) * np.float32(0.71), (u - v) * np.float32(0.71)),
    "horizontal stripes": lambda u, v: np.maximum(_reach(u, v) - 1, 0.25 * np.sin(7 * v)),
    "vertical stripes": lambda u, v: np.maximum(_reach(u, v) - 1, 0.25 * np.sin(7 * u)),
    "checkerboard": lambda u, v: np.maximum(_reach(u, v) - 1, 0.25 * np.sin(5 * u) * np.sin(5 * v)),
}
CLASS_NAMES = tuple(_FIGURES)


@cache
def draw_split(split: SplitName) -> Split:
    """Generate the training set (10,000 images) or test set (2,000), class-balanced and always the same, read-only."""
    count, part = SIZES[split], list(SIZES).index(split)
    images = np.empty((count, SIDE, SIDE, 3), np.uint8)
    labels = np.empty(count, np.int64)
    places = permutation(count, Purpose.SYNTHETIC, part, len(CLASS_NAMES))
    for label, rows in enumerate(np.split(places, len(CLASS_NAMES))):
        rng = np.random.Generator(generator(Purpose.SYNTHETIC, part, label))
        images[rows] = _draw(_FIGURES[CLASS_NAMES[label]], len(rows), rng)
        labels[rows] = label
    for array in (images, labels):
        array.flags.writeable = False  # all callers in a process share them
    return Split(images, labels)


def _draw(figure: Callable[[_Plane, _Plane], _Plane], count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    def uniform(low: float, high: float, *shape: int) -> _Plane:
        return rng.uniform(low, high, (count, *shape)).astype(np.float32)

    size = uniform(7, 13, 1, 1)
    turn = uniform(-0.3, 0.3, 1, 1)
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32) - (SIDE - 1) / 2
    x, y = (x - uniform(-5, 5, 1, 1)) / size, (y - uniform(-5, 5, 1, 1)) / size
    outside = figure(x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn))
    coverage = np.clip(0.5 - outside * size, 0, 1)[..., None]

    ground = uniform(40, 215, 1, 1, 3)
    contrast = uniform(60, 130, 1, 1, 3) * np.where(uniform(-1, 1, 1, 1, 3) > 0, 1, -1).astype(np.float32)
    light = uniform(-1.5, 1.5, 1, 1) * x * size + uniform(-1.5, 1.5, 1, 1) * y * size
    pixels = ground + contrast * (coverage - 0.5) + light[..., None]
    pixels += rng.integers(-NOISE, NOISE, pixels.shape, np.int8, endpoint=True)
    return np.asarray(np.clip(pixels, 0, 255), dtype=np.uint8)
