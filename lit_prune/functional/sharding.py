"""Weights that are split between processes: find the part of this process and its position, and add up counts.

A split weight is a `DTensor`, made by `fully_shard` (FSDP2) or tensor parallelism. `gather` communicates, and so do
`whole` and `part_like` for split tensors and `Split` for split weights: all processes must call them in the same order.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor, distributed, nn

from lit_prune.errors import expected


def is_split(tensor: Any) -> bool:
    """Return whether a value is a `DTensor`, of which each process holds a part."""
    return hasattr(tensor, "placements")


def local(tensor: Any) -> Tensor:
    """Return the part of a tensor that this process holds, without autograd history."""
    values: Tensor = (tensor.to_local() if is_split(tensor) else tensor).data
    return values


def whole(tensor: Any) -> Tensor:
    """Return a tensor that is whole in every process."""
    values: Tensor = tensor.full_tensor() if is_split(tensor) else tensor
    return values


def part_like(tensor: Any, weight: Any) -> Tensor:
    """Return the elements of a whole or split tensor at the positions that this process holds of a weight."""
    return local(tensor.redistribute(placements=weight.placements) if is_split(tensor) else tensor[block_of(weight)])


def like(part: Tensor, weight: Any) -> Tensor:
    """Join the `part` of each process into a tensor that has a weight's shape and is split as the weight is."""
    if not is_split(weight):
        return part
    from torch.distributed.tensor import DTensor

    layout, whole = (weight.device_mesh, weight.placements), {"shape": weight.shape, "stride": weight.stride()}
    return DTensor.from_local(part, *layout, run_check=False, **whole)


def block_of(weight: Any) -> tuple[slice, ...]:
    """Return, for each dimension of a weight, which indices this process holds.

    Raises:
        InputError: If a process holds several blocks of the weight.
    """
    block = [slice(0, size) for size in weight.shape]
    if not is_split(weight):
        return tuple(block)
    from torch.distributed.tensor import DTensor, Replicate

    mesh, placements = weight.device_mesh, weight.placements
    for axis, placement in enumerate(placements):
        # with `_StridedShard`, a process holds one block only if later axes of the mesh split the same dimension into
        # `split_factor` pieces
        later = prod(mesh.size(i) for i in range(axis + 1, mesh.ndim) if _splits(placements[i], placement))
        if getattr(placement, "split_factor", later) != later:
            raise expected("each process to hold one block of a weight", str(placements), "use only `Shard` placements")
    for dim in {placement.dim for placement in placements if not placement.is_replicate()}:
        # split the indices of this dimension as the weight is split
        indices = torch.arange(weight.shape[dim], device="cpu").view([1] * dim + [-1] + [1] * (weight.dim() - dim - 1))
        whole = DTensor.from_local(indices, mesh, [Replicate()] * mesh.ndim, run_check=False)
        along = [how if getattr(how, "dim", None) == dim else Replicate() for how in placements]
        held = whole.redistribute(placements=along).to_local().flatten().tolist()
        block[dim] = slice(held[0], held[-1] + 1) if held else slice(0, 0)
    return tuple(block)


def gather(value: Any) -> list[Any]:
    """Return the values of all processes, in the order of their ranks."""
    values = [None] * distributed.get_world_size()
    distributed.all_gather_object(values, value)
    return values


def reshard(model: nn.Module) -> None:
    """Split again the parameters that FSDP2 left whole after a forward pass without a backward pass."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    for module in model.modules():
        if hasattr(type(module), "reshard") and "FSDPModule" in [base.__name__ for base in type(module).__mro__]:
            module.reshard()  # type: ignore[operator]


class Split:
    """How weights are divided between processes; weights that are not split are allowed too.

    Args:
        weights: The weights.

    Attributes:
        is_whole: Whether no weight is split, so that nothing is communicated.
        sizes: Number of elements of each whole weight.
        counted: For each weight, whether this process adds its part to sums. If several processes hold the same part,
            only the first of them does.
    """

    def __init__(self, weights: Sequence[Any] = ()) -> None:
        self._weights = weights
        self.sizes = [weight.numel() for weight in weights]
        meshes = [weight.device_mesh for weight in weights if is_split(weight)]
        self.is_whole = not meshes
        self.counted = [True] * len(weights)
        if meshes:
            self._device = meshes[0].device_type
            everyone = gather([_coordinates(weight) for weight in weights])
            mine, earlier = everyone[distributed.get_rank()], everyone[: distributed.get_rank()]
            self.counted = [all(theirs[i] != place for theirs in earlier) for i, place in enumerate(mine)]

    def total(self, counts: Tensor) -> Tensor:
        """Return the sum of integers over all processes."""
        if self.is_whole:
            return counts
        counts = counts.to(self._device)
        distributed.all_reduce(counts)
        return counts.cpu()

    def sums(self, counts: Sequence[int]) -> list[int]:
        """Return the sum of each number over all processes."""
        if self.is_whole:
            return list(counts)
        sums: list[int] = self.total(torch.tensor(counts, dtype=torch.int64, device="cpu")).tolist()
        return sums

    def sums_by_weight(self, counts: Sequence[int]) -> list[int]:
        """Return the sum over processes of one number for each weight; each part of a weight counts once."""
        return self.sums([count if mine else 0 for count, mine in zip(counts, self.counted, strict=True)])

    def positions(self, index: int, elements: Tensor) -> Tensor:
        """Convert flat indices of elements in this process's part of a weight into flat indices in the whole weight."""
        weight = self._weights[index]
        positions = torch.zeros_like(elements)
        places = torch.unravel_index(elements, local(weight).shape)
        for size, block, place in zip(weight.shape, block_of(weight), places, strict=True):
            positions = positions * size + (block.start + place)
        return positions


def _splits(placement: Any, other: Any) -> bool:
    return getattr(placement, "dim", None) == getattr(other, "dim", None)


def _coordinates(weight: Any) -> tuple[int, ...]:
    """Return where this process is in the mesh of a weight, along the axes that split the weight."""
    if not is_split(weight):
        return ()
    places = zip(weight.device_mesh.get_coordinate(), weight.placements, strict=True)
    return tuple(place for place, placement in places if not placement.is_replicate())
