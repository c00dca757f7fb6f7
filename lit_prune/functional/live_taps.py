"""Find the kernel positions of a convolution that read the input, not only padding."""

from collections.abc import Sequence


def find_live_taps(sizes: Sequence[int], kernel: int, stride: int, padding: int, dilation: int) -> slice:
    """Find the fewest kernel positions with which a convolution gives the same outputs, along one dimension.

    A position ("tap") that only ever reads padding is dead: it multiplies zeros, whatever its weight is.

    Args:
        sizes: Input sizes in pixels, at least one. A tap is live if it reads a pixel of an input of any of these sizes.
        kernel: Kernel size, in taps.
        stride: Step of the kernel between two outputs, in pixels.
        padding: Zeros on either side of the input.
        dilation: Distance between two taps, in pixels.

    Returns:
        Shortest range of taps that contains every live tap and needs the same padding on both sides, namely
        `padding - start * dilation`; the first such range if several are equally short. All taps if the padded input is
        smaller than the kernel.
    """
    outputs = [count_outputs(size, kernel, stride, padding, dilation) for size in sizes]
    if min(outputs) < 1:
        return slice(0, kernel)
    live = []
    for tap in range(kernel):
        offset = tap * dilation - padding
        first = max(0, -(offset // stride))  # first output for which this tap is not left of the input
        if any(first < count and first * stride + offset < size for size, count in zip(sizes, outputs, strict=True)):
            live.append(tap)
    first, last = (live[0], live[-1]) if live else (kernel - 1, 0)
    for taps in range(max(1, last - first + 1), kernel):
        for start in range(max(0, last - taps + 1), min(first, kernel - taps) + 1):
            left = padding - start * dilation
            if left >= 0 and [count_outputs(size, taps, stride, left, dilation) for size in sizes] == outputs:
                return slice(start, start + taps)
    return slice(0, kernel)


def count_outputs(size: int, kernel: int, stride: int, padding: int, dilation: int) -> int:
    """Count the outputs of a convolution along one dimension; see `find_live_taps` for the arguments."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1
