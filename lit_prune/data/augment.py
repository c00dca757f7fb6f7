"""Augment and normalise whole batches of images on their device."""

from functools import lru_cache
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from lit_prune.data.randomness import Purpose, random_bits

# over all pixels of CIFAR-10's training images; the STD that is often used, (0.2023, 0.1994, 0.2010), is the average of
# the STDs of single images
MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2470, 0.2435, 0.2616)
PADDING = 4

Augmentation = Literal["none", "flip", "standard"]


def send(numbers: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy an array to a device; a copy to a CUDA device does not wait for the work that is queued there."""
    values = torch.from_numpy(numbers)
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def augment(images: Tensor, how: Augmentation, key: tuple[int, ...]) -> Tensor:
    """Augment each image of a batch at random.

    Args:
        images: Images, `(B, H, W, 3) uint8`. They are not changed.
        how: "none"; "flip", which mirrors images left to right with probability 1/2; or "standard", which also shifts
            them by up to 4 pixels in each direction and fills the border with black.
        key: (random seed, epoch, batch, rank). The same key gives the same augmentation.
    """
    if how == "none":
        return images
    # drawn on the CPU, so that the augmentation is the same on every device
    bits = random_bits(len(images), Purpose.AUGMENT, *key)
    steps = 2 * PADDING + 1
    drawn = np.stack([bits & 1, (bits >> 1 & 0x7FFFFFFF) % steps, (bits >> 32) % steps]).astype(np.int64)
    mirrored, down, right = send(drawn, images.device)
    if how == "standard":
        images = crop(images, down, right)
    return flip(images, mirrored.bool())


def flip(images: Tensor, mirrored: Tensor) -> Tensor:
    """Mirror images `(B, H, W, 3)` left to right where `mirrored (B,) bool` is true."""
    count, height, width, channels = images.shape
    forward = torch.arange(width * channels, device=images.device)
    backward = forward.view(width, channels).flip(0).flatten()
    columns = torch.where(mirrored[:, None], backward, forward)[:, None].expand(count, height, -1)
    return images.flatten(2).gather(2, columns).view(images.shape)


def crop(images: Tensor, down: Tensor, right: Tensor) -> Tensor:
    """Pad each image with 4 black pixels on all sides, then crop it to its original size.

    Args:
        images: Images, `(B, H, W, 3) uint8`.
        down: First row of each crop, `(B,) int64` in [0, 8]; 4 does not shift the image.
        right: First column of each crop, `(B,) int64` in [0, 8].
    """
    count, height, width, channels = images.shape
    padded = F.pad(images, (0, 0, PADDING, PADDING, PADDING, PADDING))
    # view of the 9x9 possible crops of each image, (B, 9, 9, H, W * 3), from which one is taken
    windows = padded.flatten(2).unfold(1, height, 1).unfold(2, width * channels, channels)
    return windows[torch.arange(count, device=images.device), down, right].view(images.shape)


def normalise(images: Tensor) -> Tensor:
    """Normalise images by the mean and standard deviation of each channel in CIFAR-10's training set.

    Images `(B, H, W, 3) uint8` become `(B, 3, H, W) float32` in `channels_last` memory layout.
    """
    scale, shift = _affine(images.shape[2], images.device)
    return torch.mul(images.flatten(2), scale).add_(shift).view(images.shape).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _affine(width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return scale and shift, repeated for each pixel of a row: broadcasting three channels is several times slower."""
    mean, std = torch.tensor(MEAN, dtype=torch.float64), torch.tensor(STD, dtype=torch.float64)
    scale, shift = 1 / (255 * std), -mean / std
    return scale.float().repeat(width).to(device), shift.float().repeat(width).to(device)
