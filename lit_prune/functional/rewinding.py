"""Rewind a model to earlier values and keep its current masks."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.masking import adopt_masks, mask_weights
from lit_prune.functional.selection import torch_mask


def stored_values(model: nn.Module) -> dict[str, Tensor]:
    """Copy all parameters and persistent buffers of a model to the CPU.

    Args:
        model: Any module. Of a weight that `torch.nn.utils.prune` has masked, the stored values are copied (those of
            `<name>_orig`, without the mask applied).

    Returns:
        Tensors by the names that they have in the state dict of the same model without masks.
    """
    # a copy even if it is on the CPU already
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in _stored(model)}


def rewind(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Set a model to earlier values, in place; masked weights stay zero.

    The lottery ticket hypothesis rewinds weights to their initial values (Frankle & Carbin, 2019) or to those of an
    early epoch (Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", 2020). This function also
    rewinds biases, norms and their statistics, so that the model differs from the earlier one only in pruned weights.
    Clear the optimizers' state afterwards, with `clear_state`.

    Args:
        model: Model to rewind. Its parameters keep their identity.
        values: Values from `stored_values`. Tensors of the model that have no value here are not changed.

    Raises:
        InputError: If a name or shape does not match the model; no value is changed then.
    """
    adopt_masks(model)
    stored = dict(_stored(model))
    for name, value in values.items():
        if name not in stored or stored[name].shape != value.shape:
            raise expected(
                f"a model with `{name}` of shape {tuple(value.shape)} to rewind",
                f"{tuple(stored[name].shape)}" if name in stored else "one without it",
                "rewind the model that the values were copied from",
            )
    with torch.no_grad():
        for name, value in values.items():
            stored[name].copy_(value)
    mask_weights(model)


def _stored(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Yield parameters and persistent buffers, by the names that they have without masks of `torch.nn.utils.prune`."""
    for prefix, module in model.named_modules():
        parameters = dict(module.named_parameters(recurse=False, remove_duplicate=False))
        torchs = [name for name in parameters if torch_mask(module, name.removesuffix("_orig")) is not None]
        plain = {name: name.removesuffix("_orig") for name in torchs}
        hidden = module._non_persistent_buffers_set | {f"{name}_mask" for name in plain.values()}
        for name, tensor in [*parameters.items(), *module.named_buffers(recurse=False, remove_duplicate=False)]:
            if name not in hidden:
                yield f"{prefix}.{plain.get(name, name)}".removeprefix("."), tensor
