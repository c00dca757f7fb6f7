"""Structures: which weights of a layer are pruned together."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Size, Tensor

from lit_prune.errors import expected


@runtime_checkable
class Structure(Protocol):
    """Groups of weights that are pruned together, by the mean of their scores."""

    def fold(self, weight: Tensor) -> Tensor:
        """Rearrange a weight, or another tensor of its shape, such as its scores, into shape (groups, members)."""
        ...

    def fits(self, shape: Size) -> bool:
        """Return whether a weight of this shape consists of whole groups; other weights are left dense."""
        ...


class Kernel:
    """Kernels of convolutions: all weights between one input channel and one output channel."""

    def fold(self, weight: Tensor) -> Tensor:
        """Return a row for each kernel."""
        return weight.flatten(0, 1).flatten(1) if weight.dim() > 2 else weight.reshape(-1, 1)

    def fits(self, shape: Size) -> bool:
        """Return whether the weight has two or more dimensions; in a linear layer, a kernel is one weight."""
        return len(shape) > 1


class Block:
    """Blocks of adjacent output and input channels, at the same position of the kernel.

    Args:
        rows: Output channels of a block.
        columns: Input channels of a block.
    """

    def __init__(self, rows: int, columns: int) -> None:
        self.rows, self.columns = rows, columns

    def fold(self, weight: Tensor) -> Tensor:
        """Return a row for each block."""
        outputs, inputs = weight.shape[:2]
        blocks = weight.reshape(outputs // self.rows, self.rows, inputs // self.columns, self.columns, -1)
        return blocks.permute(0, 2, 4, 1, 3).reshape(-1, self.rows * self.columns)

    def fits(self, shape: Size) -> bool:
        """Return whether the channels can be divided into whole blocks."""
        return len(shape) > 1 and shape[0] % self.rows == 0 and shape[1] % self.columns == 0


class NM:
    """N:M sparsity: in each group of `m` adjacent input channels, at least `n` weights are kept.

    Of transposed convolutions, whose weights have the other order of dimensions, these are output channels.

    Unlike in other structures, weights are pruned one by one. At an `amount` of `1 - n / m`, all groups have exactly
    `n` weights, as `torch.sparse.to_sparse_semi_structured` needs for 2:4 (Mishra et al., "Accelerating sparse deep
    neural networks", 2021).

    Args:
        n: Weights kept in each group.
        m: Weights of a group.
    """

    def __init__(self, n: int, m: int) -> None:
        self.n, self.m = n, m

    def fold(self, weight: Tensor) -> Tensor:
        """Return a row for each group."""
        return weight.movedim(1, -1).reshape(-1, self.m)

    def fits(self, shape: Size) -> bool:
        """Return whether the input channels can be divided into whole groups."""
        return len(shape) > 1 and shape[1] % self.m == 0

    def prunable(self, scores: Tensor) -> Tensor:
        """Return a bool tensor, true for the `m - n` lowest scores of each group; of equal ones, the first."""
        folded = self.fold(scores)
        ranks = folded.sort(dim=1, stable=True).indices.argsort(dim=1)
        return unfold(self, ranks < self.m - self.n, scores)


class Channel:
    """Rows of a weight: output channels of a convolution, or output features of a linear layer."""

    def fold(self, weight: Tensor) -> Tensor:
        """Return a row for each channel."""
        return weight.flatten(1)

    def fits(self, shape: Size) -> bool:
        """Return whether the weight has two or more dimensions."""
        return len(shape) > 1


def unfold(structure: Structure, folded: Tensor, like: Tensor) -> Tensor:
    """Undo `structure.fold`: rearrange values of shape (groups, members) into a tensor of the shape of `like`."""
    order = structure.fold(torch.arange(like.numel(), device=like.device).view(like.shape)).flatten()
    values = folded.new_empty(like.numel())
    values[order] = folded.reshape(-1)
    return values.view(like.shape)


def mark_lowest_groups(
    scores: Sequence[Tensor], structure: Structure, weights: Sequence[Tensor], total: int, room: Sequence[int]
) -> Iterator[Tensor]:
    """Mark the groups with the lowest mean scores, one after the other, until the next one would be too large.

    Ties are broken by the order of the layers and of their groups.

    Args:
        scores: Flat scores of each layer, infinite where weights are pruned already.
        structure: The groups.
        weights: The weights.
        total: Largest number of weights to mark.
        room: Largest number of weights to mark in each layer.

    Yields:
        For each layer a flat bool tensor that is true for the marked groups.
    """
    means, costs = [], []
    for values, weight, most in zip(scores, weights, room, strict=True):
        folded = structure.fold(values.view(weight.shape))
        left = folded.isfinite()
        cost = left.sum(1)
        mean = folded.masked_fill(~left, 0).mean(1).masked_fill(cost == 0, math.inf)
        order = mean.argsort(stable=True)
        mean[order[cost[order].cumsum(0) > most]] = math.inf
        means.append(mean)
        costs.append(cost)
    together = torch.cat(means)
    order = together.argsort(stable=True)
    marked = torch.zeros_like(together, dtype=torch.bool)
    marked[order] = (torch.cat(costs)[order].cumsum(0) <= total) & together[order].isfinite()
    for part, weight in zip(torch.split(marked, [len(mean) for mean in means]), weights, strict=True):
        yield unfold(structure, part[:, None].expand(-1, weight.numel() // len(part)), weight).flatten()


def make_structure(structure: Any, amount: float) -> Structure | None:
    """Return the object for the `structure` argument of `Pruning`; None for "weight".

    Raises:
        InputError: If it is not a structure, or if `amount` is more than an N:M structure allows.
    """
    found: Any = structure
    if isinstance(structure, str):
        numbers = [int(number) for number in re.findall(r"\d+", structure)]
        simple = {"weight": None, "kernel": Kernel(), "channel": Channel()}
        if structure in simple:
            return simple[structure]
        if re.fullmatch(r"\d+:\d+", structure) and 0 < numbers[0] < numbers[1]:
            found = NM(*numbers)
        elif re.fullmatch(r"block:\d+x\d+", structure) and 0 not in numbers:
            found = Block(*numbers)
    if not isinstance(found, Structure):
        what = '`structure` to be "weight", "kernel", "channel", "N:M" with N < M such as "2:4", or "block:RxC"'
        raise expected(what, repr(structure), 'for example "block:4x4"')
    if isinstance(found, NM) and amount > (most := 1 - found.n / found.m) + 1e-9:
        raise expected(f'`amount` of at most {most:.4g} with `structure` "{found.n}:{found.m}"', amount, "prune less")
    return found
