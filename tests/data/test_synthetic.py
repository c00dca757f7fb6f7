"""Synthetic images are always the same, fast to draw, and hard for a linear classifier."""

import time

import numpy as np
import pytest
import torch

from lit_prune.data import synthetic


@pytest.fixture(scope="module")
def drawn():
    return {split: synthetic.draw_split(split) for split in ("train", "test")}


def test_images_are_always_the_same(drawn):
    again = synthetic.draw_split.__wrapped__("test")
    np.testing.assert_array_equal(again.images, drawn["test"].images)
    np.testing.assert_array_equal(again.labels, drawn["test"].labels)


def test_images_are_drawn_once_in_a_process_and_nobody_can_change_them(drawn):
    assert all(synthetic.draw_split(split) is part for split, part in drawn.items())
    assert not any(array.flags.writeable for part in drawn.values() for array in part)


@pytest.mark.parametrize("split", ["train", "test"])
def test_images_are_balanced_shuffled_and_all_different(drawn, split):
    images, labels = drawn[split]
    size = synthetic.SIZES[split]
    assert (images.shape, images.dtype, labels.dtype) == ((size, 32, 32, 3), np.uint8, np.int64)
    assert np.bincount(labels).tolist() == [size // 10] * 10
    assert (np.diff(labels) != 0).mean() > 0.8
    assert len(np.unique(images.reshape(size, -1), axis=0)) == size


def test_training_and_test_images_differ(drawn):
    train, test = ({image.tobytes() for image in drawn[split].images} for split in ("train", "test"))
    assert not train & test


def test_images_are_drawn_quickly():
    seconds = []
    for _ in range(2):
        start = time.process_time()
        synthetic.draw_split.__wrapped__("train")
        synthetic.draw_split.__wrapped__("test")
        seconds.append(time.process_time() - start)
    assert min(seconds) < 2


def linear_accuracy(train, test, labels, test_labels):
    """Solve ridge regression on one-hot labels exactly."""
    inputs, test_inputs = (
        np.c_[features / 255 - 0.5, np.ones(len(features))].astype("f4") for features in (train, test)
    )
    gram = inputs.T @ inputs + 10 * np.eye(inputs.shape[1])
    weights = np.linalg.solve(gram, inputs.T @ np.eye(10)[labels])
    return (np.argmax(test_inputs @ weights, 1) == test_labels).mean()


def halved(images):
    """Average squares of 2x2 pixels, so that the linear classifier is solved in a second."""
    return images.reshape(len(images), 16, 2, 16, 2, 3).mean((2, 4)).reshape(len(images), -1)


def test_linear_classifiers_learn_almost_nothing(drawn):
    (images, labels), (test_images, test_labels) = drawn["train"], drawn["test"]
    colours, test_colours = images.mean((1, 2)), test_images.mean((1, 2))
    assert linear_accuracy(colours, test_colours, labels, test_labels) < 0.15
    pixels, test_pixels = halved(images), halved(test_images)
    assert linear_accuracy(pixels, test_pixels, labels, test_labels) < 0.2


@pytest.fixture
def one_thread():
    """Use one thread, which is fastest for small layers on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.gate
def test_a_small_convolutional_network_learns_the_classes(drawn):
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 5, stride=2, padding=2), torch.nn.BatchNorm2d(16), torch.nn.ReLU(),
        torch.nn.Conv2d(16, 48, 3, stride=2, padding=1), torch.nn.BatchNorm2d(48), torch.nn.ReLU(),
        torch.nn.Conv2d(48, 96, 3, stride=2, padding=1), torch.nn.BatchNorm2d(96), torch.nn.ReLU(),
        torch.nn.AdaptiveMaxPool2d(1), torch.nn.Flatten(), torch.nn.Linear(96, 10),
    )  # fmt: skip
    inputs = {split: torch.tensor(part.images).permute(0, 3, 1, 2) / 127.5 - 1 for split, part in drawn.items()}
    labels = {split: torch.tensor(part.labels) for split, part in drawn.items()}
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for rows in torch.arange(6_000).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(net(inputs["train"][rows]), labels["train"][rows]).backward()
        optimizer.step()
    net.eval()
    with torch.no_grad():
        accuracy = (net(inputs["test"]).argmax(1) == labels["test"]).float().mean()
    assert accuracy > 0.4
