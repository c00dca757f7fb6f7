"""Weights that are split between processes: the part of this process, its place in the whole, and sums over processes.

A split weight is a `DTensor`, as `fully_shard` (FSDP2) and tensor parallelism make it. The functions named `gather_...`,
and `Split` if a weight is split, communicate: all processes must call them in the same order.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lit_prune.errors import expected


def is_split(tensor: Tensor) -> bool:
    """Return whether a tensor is a `DTensor`, of which each process holds a part."""
    return hasattr(tensor, "placements")


def local(tensor: Tensor) -> Tensor:
    """Return the values of a tensor that this process holds, without their history."""
    values: Tensor = tensor.to_local() if is_split(tensor) else tensor  # type: ignore[operator]
    return values.data


def part_like(tensor: Tensor, weight: Tensor) -> Tensor:
    """Return the part of a tensor, which is whole or split, that this process holds of a weight of the same shape."""
    if not is_split(tensor):
        return tensor.detach()[block_of(weight)]
    return local(tensor.redistribute(placements=weight.placements))  # type: ignore[attr-defined]


def like(part: Tensor, weight: Tensor) -> Tensor:
    """Return a tensor of a weight's shape, split as the weight is, of which this process holds `part`."""
    if not is_split(weight):
        return part
    from torch.distributed.tensor import DTensor

    layout: Any = weight
    shape, stride = weight.shape, weight.stride()
    return DTensor.from_local(part, layout.device_mesh, layout.placements, run_check=False, shape=shape, stride=stride)


def block_of(weight: Tensor) -> tuple[slice, ...]:
    """Return, for each dimension of a weight, which of its indices this process holds."""
    if not is_split(weight):
        return (slice(None),) * weight.dim()
    from torch.distributed.tensor import DTensor, Replicate

    layout: Any = weight
    block = [slice(0, size) for size in weight.shape]
    for dim in {placement.dim for placement in layout.placements if not placement.is_replicate()}:
        # split the indices as the weight is split
        indices = torch.arange(weight.shape[dim], device="cpu").view([-1 if d == dim else 1 for d in range(weight.dim())])
        whole = DTensor.from_local(indices, layout.device_mesh, [Replicate()] * layout.device_mesh.ndim, run_check=False)
        along = [placement if getattr(placement, "dim", None) == dim else Replicate() for placement in layout.placements]
        held = whole.redistribute(placements=along).to_local().flatten().tolist()
        block[dim] = slice(held[0], held[0] + len(held)) if held else slice(0, 0)
        if held != list(range(block[dim].start, block[dim].stop)):
            raise expected("each process to hold one block of a weight", f"{layout.placements}", "shard it otherwise")
    return tuple(block)


def gather(value: Any) -> list[Any]:
    """Return the values that all processes give, by rank."""
    everyone = [None] * distributed.get_world_size()
    distributed.all_gather_object(everyone, value)
    return everyone


def reshard(model: nn.Module) -> None:
    """Let a model's parameters be its shards; after a forward pass without backward, FSDP2 leaves some of them whole."""
    for module in model.modules():
        if hasattr(type(module), "reshard") and "FSDPModule" in [base.__name__ for base in type(module).__mro__]:
            module.reshard()  # type: ignore[operator]


class Split:
    """How weights are divided between processes; also if they are not, and this process holds them all.

    Args:
        weights: The weights. If one of them is split, all processes must create this object and use it alike.

    Attributes:
        is_whole: Whether no weight is split, so that nothing is communicated.
        sizes: Number of elements of each whole weight.
        counted: For each weight, whether this process counts its part in a sum. Of several processes that hold the same
            part, only one does.
    """

    def __init__(self, weights: Sequence[Tensor]) -> None:
        self._weights = weights
        self.is_whole = not any(map(is_split, weights))
        self.sizes = [weight.numel() for weight in weights]
        self.counted = [True] * len(weights)
        if not self.is_whole:
            everyone = gather([_coordinates(weight) for weight in weights])
            rank = distributed.get_rank()
            self.counted = [all(other[i] != mine for other in everyone[:rank]) for i, mine in enumerate(everyone[rank])]

    def total(self, counts: Tensor) -> Tensor:
        """Return the sum of integers over all processes."""
        if self.is_whole:
            return counts
        counts = counts.to(local(self._weights[0]).device)
        distributed.all_reduce(counts)
        return counts

    def sums(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of numbers over all processes."""
        return list(counts) if self.is_whole else self.total(torch.tensor(counts, dtype=torch.int64, device="cpu")).tolist()

    def sums_by_weight(self, counts: Sequence[int]) -> list[int]:
        """Return the sums of one number for each weight over the processes that count the weight."""
        return self.sums([count if mine else 0 for count, mine in zip(counts, self.counted, strict=True)])

    def positions(self, index: int, elements: Tensor) -> Tensor:
        """Return the positions in a whole weight, flattened, of elements of this process's part, flattened."""
        weight = self._weights[index]
        positions = torch.zeros_like(elements)
        coordinates = torch.unravel_index(elements, local(weight).shape)
        for size, block, at in zip(weight.shape, block_of(weight), coordinates, strict=True):
            positions = positions * size + (block.start or 0) + at
        return positions


def _coordinates(weight: Tensor) -> tuple[int, ...]:
    """Return where this process is in the mesh of a weight, along the axes that split the weight."""
    if not is_split(weight):
        return ()
    layout: Any = weight
    places = layout.device_mesh.get_coordinate()
    return tuple(at for at, how in zip(places, layout.placements, strict=True) if not how.is_replicate())
