"""Pack bool masks into one bit for each weight."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lit_prune.functional.sharding import block_of, gather, is_split, local


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Pack bool tensors into a form that `torch.load(weights_only=True)` loads.

    A tensor that is split between processes (DTensor) is gathered, and every process returns it whole: all processes
    must call this.

    Args:
        masks: Bool tensors of any shape and on any device, by name.

    Returns:
        For each name, a dict: "shape" is the shape of the tensor as a list, "bits" a flat uint8 tensor on the CPU.
    """
    return {name: _pack(_whole(mask)) for name, mask in masks.items()}


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Undo `pack_masks`; the masks are whole and on the CPU."""
    return {name: _unpack(entry) for name, entry in packed.items()}


def _whole(mask: Tensor) -> Tensor:
    if not is_split(mask):
        return mask
    whole = torch.empty(mask.shape, dtype=torch.bool, device="cpu")
    for block, packed in gather((block_of(mask), _pack(local(mask)))):
        whole[block] = _unpack(packed)
    return whole


def _pack(mask: Tensor) -> dict[str, Any]:
    return {"shape": list(mask.shape), "bits": torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))}


def _unpack(packed: Mapping[str, Any]) -> Tensor:
    bits = np.unpackbits(packed["bits"].cpu().numpy(), count=prod(packed["shape"])).astype(bool)
    return torch.from_numpy(bits).reshape(packed["shape"])
