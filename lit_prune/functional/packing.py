"""Pack bool masks into one bit for each weight."""

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor


def pack_masks(masks: Mapping[str, Tensor]) -> dict[str, dict[str, Any]]:
    """Pack bool tensors into a form that `torch.load(weights_only=True)` loads.

    Args:
        masks: Bool tensors of any shape and on any device, by name.

    Returns:
        For each name, the "shape" of the tensor, a list, and its "bits", a flat uint8 tensor on the CPU.
    """
    return {
        name: {"shape": list(mask.shape), "bits": torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))}
        for name, mask in masks.items()
    }


def unpack_masks(packed: Mapping[str, Mapping[str, Any]]) -> dict[str, Tensor]:
    """Undo `pack_masks`; the masks are on the CPU."""
    masks = {}
    for name, entry in packed.items():
        bits = np.unpackbits(entry["bits"].cpu().numpy(), count=prod(entry["shape"])).astype(bool)
        masks[name] = torch.from_numpy(bits).reshape(entry["shape"])
    return masks
