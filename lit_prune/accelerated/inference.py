"""Refuse gradients and training mode in accelerated layers, which are only for inference."""

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


def refuse_training(mode: bool) -> None:
    """Raise an `InputError` for training mode."""
    if mode:
        raise InputError("An accelerated network cannot be trained. Train the original and accelerate it again.")
