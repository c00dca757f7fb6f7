"""Augmentation mirrors and shifts each image at random and changes nothing else."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lit_prune.data.augment import MEAN, STD, augment, crop, flip, normalise

KEYS = st.tuples(st.integers(0, 2**32 - 1), *[st.integers(0, 1000)] * 3)


def random_images(count, side=32):
    return torch.randint(1, 256, (count, side, side, 3), dtype=torch.uint8)


@given(st.lists(st.booleans(), min_size=1, max_size=8))
def test_flip_mirrors_the_chosen_images_exactly(mirrored):
    images = random_images(len(mirrored))
    for before, after, turned in zip(images, flip(images, torch.tensor(mirrored)), mirrored, strict=True):
        np.testing.assert_array_equal(after, before.numpy()[:, ::-1] if turned else before)


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=6))
def test_crop_is_a_window_of_the_padded_image(places):
    images = random_images(len(places))
    down, right = torch.tensor(places).T
    for image, (y, x), found in zip(images, places, crop(images, down, right), strict=True):
        padded = np.zeros((40, 40, 3), np.uint8)
        padded[4:36, 4:36] = image
        np.testing.assert_array_equal(found, padded[y : y + 32, x : x + 32])


@pytest.mark.parametrize("how", ["none", "flip", "standard"])
@given(key=KEYS)
def test_the_result_depends_only_on_the_key_and_images_are_not_changed(how, key):
    images = random_images(16)
    before = images.clone()
    once, again = augment(images, how, key), augment(images, how, key)
    assert torch.equal(once, again)
    assert torch.equal(images, before)
    assert (once.dtype, once.shape) == (images.dtype, images.shape)


@given(KEYS)
def test_none_changes_nothing(key):
    images = random_images(4)
    assert torch.equal(augment(images, "none", key), images)


@pytest.mark.parametrize("how", ["flip", "standard"])
@pytest.mark.parametrize("place", range(4))
def test_each_part_of_the_key_matters(how, place):
    images = random_images(64)
    key = [7, 1, 2, 0]
    other = [part + (number == place) for number, part in enumerate(key)]
    assert not torch.equal(augment(images, how, tuple(key)), augment(images, how, tuple(other)))


def test_flip_mirrors_half_of_the_images():
    images = random_images(1).expand(4000, -1, -1, -1)
    moved = (augment(images, "flip", (0, 0, 0, 0)) != images).flatten(1).any(1)
    assert 0.45 < moved.float().mean() < 0.55


def test_standard_uses_all_81_shifts_mirrored_or_not():
    images = random_images(1).expand(4000, -1, -1, -1)
    found = augment(images, "standard", (0, 0, 0, 0))
    assert len(torch.unique(found.flatten(1), dim=0)) == 2 * 81


def test_normalise_agrees_with_the_formula_and_gives_channels_last():
    images = random_images(5)
    found = normalise(images)
    wanted = (images.permute(0, 3, 1, 2).double() / 255 - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(
        3, 1, 1
    )
    torch.testing.assert_close(found, wanted.float(), rtol=0, atol=2e-6)
    assert found.is_contiguous(memory_format=torch.channels_last)


def test_mean_and_deviation_are_those_of_the_training_set(cifar10_dir):
    pixels = np.load(cifar10_dir / "cifar10-arrays" / "train_images.npy", mmap_mode="r").reshape(-1, 3)
    counts = np.stack([np.bincount(pixels[:, channel], minlength=256) for channel in range(3)])
    values = np.arange(256) / 255
    mean = counts @ values / len(pixels)
    deviation = np.sqrt(counts @ values**2 / len(pixels) - mean**2)
    np.testing.assert_allclose(mean, MEAN, atol=1e-4)
    np.testing.assert_allclose(deviation, STD, atol=1e-4)
