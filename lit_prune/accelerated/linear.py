"""Linear layers that multiply by the non-zero weights only."""

import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_prune.accelerated.inference import check_inference, refuse_training

# Of the three kernels for the product of a sparse matrix with rows of inputs, each is the fastest for some number of
# rows: a product with one vector at a time up to 3, one product of matrices up to 15, and `_sum_rows` above. Measured
# on AVX2 with matrices of 768x768 to 768x3072, at sparsities of 80% to 98%; near the limits the speeds differ little.
_FEW, _SOME = 3, 15
# rows for which the sums of `_sum_rows` stay in the registers of AVX2, and its table in the cache of a core
_BLOCK = 64
_BLOCKS = 4  # transposed together, by all threads

with warnings.catch_warnings():
    # torch warns once per process that tensors of this layout are in beta state
    warnings.simplefilter("ignore")
    torch.sparse_csr_tensor([0, 0], [], [], (1, 1))


class SparseLinear(nn.Module):
    """A `torch.nn.Linear` for the CPU that stores and multiplies only non-zero weights, for inference.

    Args:
        in_features: Number of inputs.
        out_features: Number of outputs.
        nonzero: Number of weights that are not zero.
        bias: Whether there is a bias.
    """

    crow_indices: Tensor
    col_indices: Tensor
    bias: Tensor | None

    def __init__(self, in_features: int, out_features: int, nonzero: int, bias: bool = True) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        # compressed sparse rows; with 64-bit indices, torch's kernels would convert them at each call
        self.register_buffer("crow_indices", torch.zeros(out_features + 1, dtype=torch.int32))
        self.register_buffer("col_indices", torch.zeros(nonzero, dtype=torch.int32))
        # a parameter, because networks look for their dtype and device in `parameters()`
        self.values = nn.Parameter(torch.zeros(nonzero), requires_grad=False)
        self.register_buffer("bias", torch.zeros(out_features) if bias else None)

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor | None = None) -> "SparseLinear":
        """Make a layer from a dense weight (out_features, in_features) and a bias (out_features)."""
        weight = weight.detach()
        kept = weight != 0
        layer = cls(weight.shape[1], weight.shape[0], int(kept.sum()), bias is not None)
        layer.crow_indices[1:] = kept.sum(1).cumsum(0)
        layer.col_indices.copy_(kept.nonzero()[:, 1])
        layer.values = nn.Parameter(weight[kept], requires_grad=False)
        layer.bias = None if bias is None else bias.detach().clone()
        return layer

    @property
    def weight(self) -> Tensor:
        """The weight (out_features, in_features), as a tensor of layout `torch.sparse_csr` that shares its memory."""
        size = (self.out_features, self.in_features)
        parts = (self.crow_indices, self.col_indices, self.values)
        return torch.sparse_csr_tensor(*parts, size, check_invariants=False)

    def is_valid(self) -> bool:
        """Return whether the indices are those of a CSR matrix; others could make products read out of bounds."""
        parts = (self.crow_indices, self.col_indices, self.values)
        try:
            torch.sparse_csr_tensor(*parts, (self.out_features, self.in_features), check_invariants=True)
        except RuntimeError:
            return False
        return True

    def train(self, mode: bool = True) -> "SparseLinear":
        """Refuse training mode."""
        refuse_training(mode)
        return super().train(mode)

    def forward(self, input: Tensor) -> Tensor:
        """Multiply inputs (..., in_features); the outputs (..., out_features) are contiguous."""
        check_inference(input)
        rows = input.reshape(-1, self.in_features)
        return self._multiply(rows).view(*input.shape[:-1], self.out_features)

    def multiply_columns(self, columns: Tensor) -> Tensor:
        """Multiply the weight by a contiguous matrix (in_features, n), without the bias."""
        if columns.shape[1] <= _SOME:
            return self.weight @ columns
        if columns.shape[1] <= _BLOCK:
            return self._sum_rows(columns)
        parts = torch.split(columns, _block_size(columns.shape[1]), dim=1)
        return torch.cat([self._sum_rows(part.contiguous()) for part in parts], dim=1)

    def _multiply(self, rows: Tensor) -> Tensor:
        if 0 < len(rows) <= _FEW:
            weight = self.weight
            products = [weight.mv(row) if self.bias is None else self.bias.addmv(weight, row) for row in rows]
            return products[0] if len(products) == 1 else torch.stack(products)
        output = rows.new_empty(len(rows), self.out_features)
        bias = rows.new_zeros(()) if self.bias is None else self.bias
        if len(rows) <= _SOME:
            return torch.add((self.weight @ rows.t().contiguous()).t(), bias, out=output)
        size = _block_size(len(rows))
        # a few blocks at a time, so that the memory between the steps stays in the cache
        parts = zip(rows.split(_BLOCKS * size), output.split(_BLOCKS * size), strict=True)  # type: ignore[no-untyped-call]
        for part, target in parts:
            missing = -len(part) % size
            padded = F.pad(part, (0, 0, 0, missing)) if missing else part
            tables = transpose(padded.view(-1, size, self.in_features))
            sums = torch.stack([self._sum_rows(table) for table in tables])
            torch.add(transpose(sums).view(-1, self.out_features)[: len(part)], bias, out=target)
        return output

    def _sum_rows(self, table: Tensor) -> Tensor:
        """Multiply the weight by a contiguous matrix (in_features, n).

        Each row of the product is a weighted sum of rows of the table. That is what an embedding bag computes, with
        kernels that torch generates for the processor: with many columns, they are faster than MKL's sparse product.
        """
        product: Tensor = torch.embedding_bag(
            table, self.col_indices, self.crow_indices, False, 0, False, self.values, True
        )[0]
        return product

    def extra_repr(self) -> str:
        """Describe the layer as `nn.Linear` does, with the number of its weights that are not zero."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, nonzero={len(self.values)}, "
            f"bias={self.bias is not None}"
        )


def _block_size(count: int) -> int:
    """Return the size of the fewest equal blocks of at most `_BLOCK` rows, rounded up to a multiple of 8."""
    blocks = -(-count // _BLOCK)
    return -(-count // (8 * blocks)) * 8


def dense_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Make a `torch.nn.Linear` from a weight and a bias, without first drawing random ones."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    layer.weight = nn.Parameter(weight.detach(), requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias.detach(), requires_grad=False)
    return layer


def transpose(matrices: Tensor) -> Tensor:
    """Transpose contiguous matrices (n, rows, columns) into contiguous ones (n, columns, rows).

    A copy of `matrices.transpose(1, 2)` moves one number at a time. Shuffling channels moves the same numbers to the
    same places, if an image has one pixel, and its kernel is faster, because it transposes squares of numbers in
    registers.
    """
    count, rows, columns = matrices.shape
    pixels = matrices.reshape(count, 1, 1, rows * columns).permute(0, 3, 1, 2)
    return torch.native_channel_shuffle(pixels, rows).permute(0, 2, 3, 1).reshape(count, columns, rows)
