"""What the exporters of graphs have in common: an input to trace with, and one sentence if it fails."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import InputError, UnfinishedError, expected

__all__ = ["dynamic", "example", "image_channels", "traced"]

_SHOWN = 200


def example(module: nn.Module, batch: int | None, channels: int, input_size: int) -> Tensor:
    """Make images to trace a network with.

    Raises:
        InputError: If the network does not map them to one tensor with a row for each.
    """
    # one image would make torch believe that there is always one
    images = torch.zeros(batch or 2, channels, input_size, input_size)
    with torch.no_grad():
        try:
            output = module(images)
        except Exception as error:  # somebody's forward may raise anything
            _pass_on(error)
            shape = f"{channels}x{input_size}x{input_size}"
            hint = "give `--input_size`, the size that it was trained at"
            raise expected(f"a network that takes images of {shape}", _line(error), hint) from error
    if not isinstance(output, Tensor) or output.dim() == 0 or len(output) != len(images):
        found = f"a shape of {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        what = f"a network that maps {len(images)} images to {len(images)} rows"
        raise expected(what, found, "wrap it in a module that returns one tensor")
    return images


def dynamic(batch: int | None) -> Any:
    """Say which sizes of the input stay open: the first, unless it is given."""
    return None if batch is not None else ({0: torch.export.Dim("batch")},)


def image_channels(model: nn.Module) -> int:
    """Find how many channels the images of a network have: as its example says, or its first convolution."""
    images = getattr(model, "example_input_array", None)
    if isinstance(images, Tensor) and images.dim() == 4:
        return images.shape[1]
    return next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)


@contextmanager
def traced(kind: str) -> Iterator[None]:
    """Turn what an exporter raises into one sentence.

    Raises:
        InputError: If the network cannot be traced.
    """
    try:
        yield
    except Exception as error:  # exporters raise a dozen classes, of torch and of others
        cause = _pass_on(error)
        hint = "what its `forward` does must depend on the shapes of its input alone, not on values"
        raise expected(f"a network that can be traced for {kind}", _line(cause), hint) from error


def _pass_on(error: BaseException) -> BaseException:
    """Return what an error came from; raise it if it has nothing to do with the network: a signal, or a full disk."""
    while True:
        if isinstance(error, InputError | UnfinishedError | OSError | MemoryError):
            raise error
        if error.__cause__ is None:
            return error
        error = error.__cause__


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split("\n\n")[0].split()).rstrip(".") or type(error).__name__
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
