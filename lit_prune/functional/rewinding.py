"""Going back to the weights of an earlier moment, with the masks of now."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.masking import masked_parameters, zero_pruned

__all__ = ["rewind", "stored_values"]


def stored_values(model: nn.Module) -> dict[str, Tensor]:
    """Copy what a state dict of the model would hold: all parameters and persistent buffers.

    Args:
        model: Any module; masked weights have their zeros.

    Returns:
        Tensors on the CPU, by the names that they have in a plain model.
    """
    # a copy even where it is on the CPU already; of the same layout, which a later `copy_` need not care about
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _stored(model)}


def rewind(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give a model the values of an earlier moment, in place; what is masked now stays zero.

    Weights are what is rewound in the lottery ticket hypothesis (Frankle & Carbin, 2019), to their initial values or
    to those of an early epoch (Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020).
    Here biases, norms and their statistics go back too, so that the model is one that has been, but for the zeros.
    What an optimizer remembers is of another model then: see `clear_state`.

    Args:
        model: Its parameters keep their identity, its masks are not changed.
        values: From `stored_values`. What is missing in it stays as it is.

    Raises:
        InputError: If a name is not that of a parameter or buffer, or a shape is another; nothing is changed then.
    """
    stored = dict(_stored(model))
    for name, value in values.items():
        if name not in stored or stored[name].shape != value.shape:
            raise expected(
                f"a model with `{name}` of the shape {tuple(value.shape)} to rewind",
                f"{tuple(stored[name].shape)}" if name in stored else "one without it",
                "rewind the model that the values were copied from",
            )
    with torch.no_grad():
        for name, value in values.items():
            stored[name].copy_(value)
    for module in model.modules():
        zero_pruned(module)


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and persistent buffers, those of masked layers under the names of plain ones and without the masks."""
    for prefix, module in model.named_modules():
        masked = masked_parameters(module)
        plain = {f"{name}_orig": name for name in masked}
        tensors: dict[str, Tensor | None] = {**module._parameters, **module._buffers}
        hidden = module._non_persistent_buffers_set | {f"{name}_mask" for name in masked}
        for name, tensor in tensors.items():
            if tensor is not None and name not in hidden:
                yield f"{prefix}.{plain.get(name, name)}".removeprefix("."), tensor
