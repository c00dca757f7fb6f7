"""Linear layers with 2:4 sparsity, which NVIDIA's tensor cores multiply faster than dense ones."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.sparse import to_sparse_semi_structured

from lit_prune.accelerated.inference import check_inference, refuse_training


class SemiStructuredLinear(nn.Module):
    """A `torch.nn.Linear` on a GPU with at most 2 non-zero weights in each group of 4, for inference.

    Args:
        weight: Dense weight (out_features, in_features).
        bias: Bias (out_features) or None.
    """

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.register_buffer("weight", weight.detach())
        self.register_buffer("bias", None if bias is None else bias.detach())
        self._packed: Any = None  # the weight in the layout of the kernels, and the address and version of its source

    def train(self, mode: bool = True) -> "SemiStructuredLinear":
        """Refuse training mode."""
        refuse_training(mode)
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply inputs (..., in_features)."""
        check_inference(input)
        if self._packed is None or self._packed[1:] != (self.weight.data_ptr(), self.weight._version):
            packed = to_sparse_semi_structured(self.weight)
            self._packed = packed, self.weight.data_ptr(), self.weight._version
        return F.linear(input, self._packed[0], self.bias)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the packed weight out of copies; each makes its own."""
        return self.__dict__ | {"_packed": None}


def is_semi_structured(weight: Tensor) -> bool:
    """Return whether at most 2 weights of each 4 neighbours in a row are not zero."""
    if weight.dim() != 2 or weight.shape[1] % 4:
        return False
    return int(weight.reshape(-1, 4).count_nonzero(1).max()) <= 2
