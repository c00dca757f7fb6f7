"""What both graph exporters need: images to trace with, and one sentence for any failure."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, UnfinishedError, expected, one_line


def example_images(module: nn.Module, batch: int | None, channels: int, input_size: int) -> Tensor:
    """Make images to trace a network with.

    Raises:
        InputError: If the network does not map them to one tensor with a row for each.
    """
    # with one image, torch would assume that there is always one
    images = torch.zeros(batch or 2, channels, input_size, input_size)
    with torch.no_grad():
        try:
            output = module(images)
        except Exception as error:  # a custom `forward` may raise anything
            _raise_if_unrelated(error)
            what = f"a network that takes images of {channels}x{input_size}x{input_size}"
            raise expected(what, one_line(error), "give the size it was trained at as `--input_size`") from error
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(images):
        found = f"a shape of {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        what = f"a network that maps {len(images)} images to {len(images)} rows"
        raise expected(what, found, "wrap it in a module that returns one tensor")
    return images


def dynamic_shapes(batch: int | None) -> Any:
    """Return the `dynamic_shapes` of an exporter: any batch size, unless it is given."""
    return None if batch is not None else ({0: torch.export.Dim("batch")},)


@contextmanager
def one_sentence_failures(exporter: str) -> Iterator[None]:
    """Turn an exporter's error into one sentence.

    Raises:
        InputError: If the network cannot be traced.
    """
    try:
        yield
    except Exception as error:  # exporters raise errors of a dozen classes
        cause = _raise_if_unrelated(error)
        hint = "its `forward` may depend on the shapes of its input, but not on the values"
        raise expected(f"a network that {exporter} can trace", one_line(cause), hint) from error


def _raise_if_unrelated(error: BaseException) -> BaseException:
    """Return the first cause of an error; raise an error that is not about the network: a signal, or a full disk."""
    while True:
        if isinstance(error, InputError | UnfinishedError | OSError | MemoryError):
            raise error
        if error.__cause__ is None:
            return error
        error = error.__cause__
