"""The inputs of a network: images, or whatever its class gives as `example_input_array`."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.cli.failures import describe_failure
from lit_prune.errors import InputError, expected, one_line
from lit_prune.trained.scoring import Run

SIZE = 32  # height and width of CIFAR-10 images, in pixels


@dataclass(frozen=True)
class Inputs:
    """Examples of the inputs of a network.

    Attributes:
        tensors: Examples by name, in the order in which the network takes them.
        by_name: Whether they are passed to the network as keyword arguments.
    """

    tensors: Mapping[str, Tensor]
    by_name: bool = False

    @classmethod
    def of(cls, model: nn.Module, input_size: int | list[int] | None = None) -> "Inputs":
        """Return the inputs of a model: of the given size, or like its `example_input_array`, or 32x32 images.

        Raises:
            InputError: If `example_input_array` holds anything but tensors.
        """
        example: Any = getattr(model, "example_input_array", None)
        if isinstance(input_size, list):
            return cls({"images" if len(input_size) == 3 else "inputs": torch.zeros(2, *input_size)})
        if isinstance(example, Tensor) and example.dim() == 4 and example.is_floating_point():
            height, width = [input_size] * 2 if input_size else example.shape[2:]
            return image_inputs(example.shape[1], height, width, example.dtype)
        if input_size is not None or example is None:
            first = next((layer.in_channels for layer in model.modules() if isinstance(layer, nn.Conv2d)), 3)
            return image_inputs(first, input_size or SIZE, input_size or SIZE)
        named = example if isinstance(example, Mapping) else _name(model, example)
        if not named or not all(isinstance(value, Tensor) for value in named.values()):
            what = f"`example_input_array` of {type(model).__name__} to hold tensors"
            kinds = ", ".join(type(value).__name__ for value in named.values())
            raise expected(
                what, kinds or "nothing", "give a tensor, a tuple of tensors, or a dictionary of tensors by name"
            )
        return cls(named, by_name=isinstance(example, Mapping))

    @property
    def image_size(self) -> tuple[int, int, int] | None:
        """Channels, height and width if the network takes only images, else None."""
        (first, *others) = self.tensors.values()
        return None if others or first.dim() != 4 else (first.shape[1], first.shape[2], first.shape[3])

    @property
    def have_rows(self) -> bool:
        """Whether all inputs have one row for each example; the nodes and edges of a graph, for instance, do not."""
        lengths = {tuple(tensor.shape[:1]) for tensor in self.tensors.values()}
        return len(lengths) == 1 and not lengths & {(), (0,)}

    @property
    def unit(self) -> str:
        """Name of the rows in messages: "images" or "rows"."""
        return "images" if self.image_size is not None else "rows"

    def feed(self, module: nn.Module) -> Run:
        """Return a function that calls a module with inputs in the order of `tensors`."""
        if not self.by_name:
            return module
        return lambda *inputs: module(**dict(zip(self.tensors, inputs, strict=True)))

    def are_accepted_by(self, model: nn.Module) -> bool:
        """Return whether a model returns one tensor for these inputs."""
        try:
            self.check_accepted_by(model)
        except InputError:
            return False
        return True

    def check_accepted_by(self, model: nn.Module) -> None:
        """Raise an `InputError` unless a model returns one tensor for these inputs."""
        what = f"{type(model).__name__} to return a tensor of logits for {self}"
        try:
            with torch.inference_mode():
                output: Any = self.feed(model)(*self.rows(1))
        except Exception as error:  # a custom `forward` may raise anything
            if describe_failure(error) is not None:  # not about the inputs: a signal, or out of memory
                raise
            hint = "give the shape of one input, as in `--input_size [784]`, or set `example_input_array` in the class"
            raise expected(what, f"{type(error).__name__} ({one_line(error)})", hint) from error
        if not isinstance(output, Tensor) or output.dim() == 0:
            found = "a scalar" if isinstance(output, Tensor) else f"an output of type {type(output).__name__}"
            raise expected(what, found, "return one tensor from `forward`, with a row for each input")

    def rows(self, count: int) -> tuple[Tensor, ...]:
        """Return a batch of `count` rows for tracing, or the examples themselves if `have_rows` is false."""
        if not self.have_rows:
            return tuple(self.tensors.values())
        return tuple(tensor[torch.arange(count) % len(tensor)] for tensor in self.tensors.values())

    def one(self) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Return the arguments of a forward pass with a single row, or with the examples if `have_rows` is false."""
        return self._as_arguments(self.rows(1))

    def arguments(self, batch: int) -> tuple[Tensor, ...] | dict[str, Tensor]:
        """Return the arguments of a forward pass with a random batch of size `batch`, as `random` draws it."""
        return self._as_arguments(next(self.random(batch))[0])

    def _as_arguments(self, tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...] | dict[str, Tensor]:
        return dict(zip(self.tensors, tensors, strict=True)) if self.by_name else tensors

    def random(self, batch: int | None) -> Iterator[tuple[tuple[Tensor, ...], None]]:
        """Yield random batches, the same at each call: one of size `batch`, or three of different sizes if it is None.

        Floating-point inputs are drawn from a normal distribution. Integer inputs, which may be indices, are random
        rows of the example.
        """
        generator = torch.Generator().manual_seed(0)
        for count in (1, 2, 7) if batch is None else (batch,):
            yield tuple(self._draw(tensor, count, generator) for tensor in self.tensors.values()), None

    def _draw(self, example: Tensor, count: int, generator: torch.Generator) -> Tensor:
        shape = (count, *example.shape[1:]) if self.have_rows else example.shape
        if example.is_floating_point():
            return torch.randn(shape, generator=generator, dtype=example.dtype)
        if not self.have_rows:
            return example
        return example[torch.randint(len(example), (count,), generator=generator)]

    def describe(self) -> dict[str, dict[str, Any]]:
        """Return the shape and type of each input, without the dimension of the rows."""
        return {
            name: {
                "shape": list(tensor.shape[1 if self.have_rows else 0 :]),
                "dtype": str(tensor.dtype).removeprefix("torch."),
            }
            for name, tensor in self.tensors.items()
        }

    def __str__(self) -> str:
        if (size := self.image_size) is not None:
            return f"images of {'x'.join(map(str, size))}"
        return ", ".join(f"`{name}` {about['shape']} {about['dtype']}" for name, about in self.describe().items())


def defines_forward(model: nn.Module) -> bool:
    """Return whether the class of a model defines `forward`."""
    return type(model).forward.__qualname__ not in ("LightningModule.forward", nn.Module.forward.__qualname__)


def image_inputs(channels: int, height: int, width: int, dtype: torch.dtype = torch.float32) -> Inputs:
    """Return the inputs of a network that takes images."""
    return Inputs({"images": torch.zeros(2, channels, height, width, dtype=dtype)})


def _name(model: nn.Module, example: Any) -> dict[str, Any]:
    """Name inputs like the parameters of `forward`."""
    values = list(example) if isinstance(example, tuple | list) else [example]
    parameters = signature(model.forward).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.POSITIONAL_OR_KEYWORD]
    names += [f"input_{number}" for number in range(len(names), len(values))]  # names for `*args`
    return dict(zip(names, values, strict=False))
