"""Random numbers depend only on their purpose and key."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from lit_prune.data.randomness import Purpose, balanced_order, permutation, random_bits


def test_the_stream_never_changes():
    assert permutation(8, Purpose.SPLIT, 0).tolist() == [2, 4, 7, 5, 0, 6, 3, 1]
    assert random_bits(2, Purpose.AUGMENT, 1, 2, 3, 4).tolist() == [6392925701969504733, 15093163026081293384]


def test_purposes_and_keys_give_different_draws():
    keys = [(purpose, seed) for purpose in Purpose for seed in range(20)]
    assert len({tuple(random_bits(2, *key)) for key in keys}) == len(keys)


@given(st.integers(0, 2**32 - 1), st.integers(0, 500))
def test_permutations_hold_every_index_once(seed, count):
    np.testing.assert_array_equal(np.sort(permutation(count, Purpose.SHUFFLE, seed, 0)), np.arange(count))


@given(st.integers(0, 2**32 - 1), st.integers(1, 20), st.data())
def test_every_slice_of_the_order_is_balanced(seed, per_class, data):
    labels = np.random.default_rng(seed).permutation(np.repeat(np.arange(10), per_class))
    order = balanced_order(labels, seed)
    np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
    start = data.draw(st.integers(0, len(labels)))
    stop = data.draw(st.integers(start, len(labels)))
    counts = np.bincount(labels[order[start:stop]], minlength=10)
    assert counts.max() - counts.min() <= 1


def test_images_within_a_class_are_shuffled():
    labels = np.repeat(np.arange(10), 100)
    order = balanced_order(labels, 3)
    first = order[labels[order] == 0]
    assert first.tolist() != sorted(first)
    assert order.tolist() != balanced_order(labels, 4).tolist()
