"""Live taps, against the definition of a convolution."""

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lit_prune.functional.live_taps import count_outputs, find_live_taps

# size, kernel, stride, padding, dilation
shapes = st.tuples(st.integers(1, 12), st.integers(1, 7), st.integers(1, 4), st.integers(0, 6), st.integers(1, 3))


def reads(size, kernel, stride, padding, dilation):
    """By definition: for each output, the pixel that each tap reads, or None in the padding."""
    outputs = range((size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1)
    places = [[out * stride - padding + tap * dilation for tap in range(kernel)] for out in outputs]
    return [[place if 0 <= place < size else None for place in row] for row in places]


@given(shapes)
@settings(max_examples=500)
def test_no_shorter_range_would_do(shape):
    """Every range with symmetric padding that reads all that the kernel reads is at least as long."""
    size, kernel, stride, padding, dilation = shape
    table = reads(*shape)
    assume(table)

    def reads_the_same(start, stop):
        left = padding - start * dilation
        if left < 0 or reads(size, stop - start, stride, left, dilation) != [row[start:stop] for row in table]:
            return False
        return all(pixel is None for row in table for pixel in (*row[:start], *row[stop:]))

    ranges = [(start, stop) for stop in range(1, kernel + 1) for start in range(stop) if reads_the_same(start, stop)]
    best = min(ranges, key=lambda taps: (taps[1] - taps[0], taps[0]))
    assert find_live_taps([size], *shape[1:]) == slice(*best)


@given(shapes)
def test_outputs_are_counted_as_the_definition_says(shape):
    assert max(0, count_outputs(*shape)) == len(reads(*shape))


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((1, 3, 1, 1, 1), (1, 2)),
        ((2, 3, 2, 1, 1), (1, 3)),
        ((2, 3, 1, 1, 1), (0, 3)),  # every tap reads a pixel for one of the two outputs
        ((1, 7, 2, 3, 1), (3, 4)),
        ((3, 7, 1, 6, 2), (2, 5)),
        ((1, 2, 1, 1, 1), (0, 2)),
        ((1, 3, 2, 2, 1), (0, 3)),  # the one tap that reads would need padding on the left alone
    ],
)
def test_live_taps_worked_out_by_hand(shape, kept):
    assert find_live_taps([shape[0]], *shape[1:]) == slice(*kept)


def test_two_sizes_keep_the_taps_of_both():
    assert find_live_taps([1, 2], 3, 1, 1, 1) == slice(0, 3)
    assert find_live_taps([1, 2], 5, 1, 2, 1) == slice(1, 4)
