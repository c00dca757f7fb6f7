"""The check of exported files passes equal logits, and nothing else."""

import math

import pytest
import torch

from lit_prune.errors import UnfinishedError
from lit_prune.trained.export.check import Check, check, in_batches
from lit_prune.trained.export.weights import same_bits
from lit_prune.trained.inputs import image_inputs

IMAGES = torch.arange(24.0).reshape(4, 1, 2, 3)
LABELS = torch.tensor([2, 0, 0, 1])


def logits(images):
    """Logits of class 2 for every image, of which the largest is 3."""
    return torch.tensor([1.0, 2.0, 3.0]).expand(len(images), 3)


def test_equal_logits_pass():
    found = check(logits, logits, [(IMAGES, None)])
    assert found == Check(4, 0.0, 3.0, 0)
    assert found.require("them") is found


def test_a_network_may_return_one_number_for_each_input():
    found = check(lambda images: images.sum((1, 2, 3)), lambda images: images.sum((1, 2, 3)) + 2, [(IMAGES, None)])
    assert (found.images, found.difference) == (4, 2.0)


def test_the_largest_difference_of_all_batches_counts():
    def other(images):
        wrong = logits(images).clone()
        if len(images) == 1:
            wrong[0, 0] = 3.5
        return wrong

    found = check(logits, other, [(IMAGES, LABELS), (IMAGES[:1], LABELS[:1]), (IMAGES, LABELS)])
    assert (found.images, found.difference, found.changed) == (9, 2.5, 1)
    assert found.scores is not None
    assert [score.right for score in found.scores] == [3, 2]
    assert [score.images for score in found.scores] == [9, 9]
    with pytest.raises(UnfinishedError) as error:
        found.require("random images")
    said = "logits that differ from the network's by 2.5 on random images; at most 0.0003 is allowed. It was not kept"
    assert said in str(error.value)
    assert error.value.status == 1


@pytest.mark.parametrize("number", [math.nan, math.inf])
@pytest.mark.parametrize("broken", [0, 1])
def test_nan_and_infinity_never_pass(number, broken):
    """Whether the network or the file computes it, in any batch."""

    def other(images):
        return logits(images) * (number if len(images) == 2 else 1)

    pair = (other, logits) if broken == 0 else (logits, other)
    found = check(*pair, [(IMAGES[:2], None), (IMAGES, None)])
    with pytest.raises(UnfinishedError, match=r"logits that differ from the network's by (nan|inf) on"):
        found.require("these")


def test_a_file_that_cannot_be_run_fails():
    def broken(images):
        raise ValueError("no such\noperator.")

    with pytest.raises(UnfinishedError, match=r"cannot be run on 4 images: no such operator\. It was not kept"):
        check(logits, broken, [(IMAGES, None)])


def test_logits_of_another_shape_fail():
    """Even if the shapes could be broadcast."""
    with pytest.raises(UnfinishedError, match=r"logits of shape \(1, 3\) instead of \(4, 3\)"):
        check(logits, lambda images: logits(images[:1]), [(IMAGES, None)])


def test_the_bound_is_relative_only_to_large_logits():
    assert Check(1, 0.0, 50.0, 0).bound == pytest.approx(5e-3)
    assert Check(1, 0.0, 0.1, 0).bound == pytest.approx(1e-4)


@pytest.mark.parametrize("batch", [1, 3, 4, 5])
def test_a_fixed_batch_size_runs_any_number_of_images(batch):
    sizes = []

    def run(images):
        sizes.append(len(images))
        return images.flatten(1)

    assert torch.equal(in_batches(run, batch)(IMAGES), IMAGES.flatten(1))
    assert set(sizes) == {batch}
    assert in_batches(run, None) is run


def test_random_images_are_reproducible_and_include_a_batch_of_one():
    first, again = ([images for (images,), _ in image_inputs(3, 5, 5).random(None)] for _ in range(2))
    assert [tuple(images.shape) for images in first] == [(1, 3, 5, 5), (2, 3, 5, 5), (7, 3, 5, 5)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert [len(images) for (images,), _ in image_inputs(1, 2, 2).random(6)] == [6]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        (torch.tensor([math.nan]), torch.tensor([math.nan]), True),
        (torch.tensor([0.0]), torch.tensor([-0.0]), False),
        (torch.tensor([1]), torch.tensor([1.0]), False),
        (torch.tensor(1), torch.tensor([1]), False),
        (IMAGES.mT, IMAGES.mT.clone(), True),
        (torch.tensor(True), torch.tensor(False), False),
    ],
)
def test_bits_are_compared_instead_of_values(a, b, same):
    assert same_bits(a, b) is same
