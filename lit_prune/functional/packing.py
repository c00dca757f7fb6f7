"""Masks as packed bits: an eighth of a byte for each weight, in tensors that any checkpoint may hold."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["pack_bits", "unpack_bits"]


def pack_bits(mask: Tensor) -> Tensor:
    """Pack a bool tensor of any shape and device into a flat uint8 tensor on the CPU, eight elements in a byte."""
    return torch.from_numpy(np.packbits(mask.flatten().cpu().numpy()))


def unpack_bits(bits: Tensor, shape: Sequence[int]) -> Tensor:
    """Undo `pack_bits`.

    Args:
        bits: What `pack_bits` returned.
        shape: Of the mask that was packed.
    """
    count = int(np.prod(shape))
    return torch.from_numpy(np.unpackbits(bits.cpu().numpy(), count=count).astype(bool)).reshape(tuple(shape))
