"""The one condition of accelerated layers: they compute no gradients."""

import torch
from torch import Tensor

from lit_prune.errors import InputError


def check_inference(input: Tensor) -> None:
    """Raise an `InputError` if a gradient of this input is wanted."""
    if input.requires_grad and torch.is_grad_enabled():
        raise InputError(
            "An accelerated network computes no gradients. Call it under `torch.inference_mode()`, and train the "
            "original network."
        )
