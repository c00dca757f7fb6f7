"""Weights that are split between processes are pruned exactly as in one process, and are never gathered."""

import warnings
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module
from torch.utils._python_dispatch import TorchDispatchMode

from lit_prune.callbacks import RigL
from lit_prune.errors import InputError
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.criteria import Movement, RandomScore, Score, Shuffled, l2, lamp, magnitude
from lit_prune.functional.masking import apply_masks, current_mask, hold_masks, remove_masks
from lit_prune.functional.optimizer_state import clear_pruned_state
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.regrowth import regrow_masks
from lit_prune.functional.selection import weight_layers
from lit_prune.functional.sharding import local, part_like
from lit_prune.functional.sparsity import sparsity_report
from tests.processes import run_group


class Communicated(TorchDispatchMode):
    """Records the size in bytes of every tensor that a process sends or receives."""

    def __init__(self) -> None:
        super().__init__()
        self.sizes: list[int] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(hasattr(kind, "placements") for kind in types):
            return NotImplemented  # comes back with the tensors inside
        if "c10d" in func.namespace:
            tensors = torch.utils._pytree.tree_leaves((args, kwargs))
            self.sizes += [tensor.nbytes for tensor in tensors if isinstance(tensor, Tensor)]
        return func(*args, **(kwargs or {}))


def signed(weights: Sequence[Tensor]) -> Iterable[Tensor]:
    return (weight.detach() * 1 for weight in weights)


def pick(*options: Any) -> Any:
    return options[int(torch.randint(len(options), ()))]


def layers(weights: Iterable[Tensor]) -> nn.Sequential:
    model = nn.Sequential()
    for weight in weights:
        layer = nn.Linear(1, 1)
        layer.weight = nn.Parameter(weight.clone())
        model.append(layer)
    return model


def outcome(compute: Any, model: nn.Module, amount: float, score: Score) -> tuple[dict[str, Tensor], str]:
    """Return masks, and what was said."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            masks = compute(weight_layers(model), amount, score)
        except InputError as error:
            return {}, str(error)
    return masks, "\n".join(str(warning.message) for warning in caught)


def check_equal(whole: dict[str, Tensor], split: dict[str, Tensor]) -> None:
    assert whole.keys() == split.keys()
    for name, mask in whole.items():
        assert split[name].shape == mask.shape
        assert torch.equal(part_like(mask, split[name]), local(split[name]))


def compare(rank: int, seed: int) -> None:
    """Prune random layers, split at random, with ties, twice in a row; all processes draw the same layers."""
    torch.manual_seed(seed)
    size = distributed.get_world_size()
    meshes = [init_device_mesh("cpu", (size,))]
    if size == 4:
        grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("rows", "columns"))
        meshes += [grid, grid["rows"], grid["columns"]]
    for _ in range(8 // size):
        dtype = pick(torch.float32, torch.float64, torch.bfloat16)
        shapes = [(pick(*range(1, 10)), pick(*range(1, 10)), *pick((), (2, 3))) for _ in range(4)]
        values = [(torch.randn(shape) * pick(2, 100)).round().to(dtype) for shape in shapes]
        whole, split = layers(values), layers(values)
        chosen: list[Any] = list(split)
        for layer in chosen[: pick(3, 4)]:  # one may stay whole
            mesh: DeviceMesh = pick(*meshes)
            placements = [pick(Shard(0), Shard(0), Shard(1), Replicate()) for _ in range(mesh.ndim)]
            layer.weight = nn.Parameter(distribute_tensor(layer.weight.detach(), mesh, placements))
        score = pick(magnitude, signed, RandomScore(seed), lamp, Shuffled(l2, seed))
        limit = pick(None, 0.8)
        for amount in torch.rand(2).mul(0.98).sort().values.tolist():
            for options in ({"max_layer_sparsity": limit}, {"allocation": "uniform"}):
                (expected, said), (masks, also_said) = (
                    outcome(partial(compute_masks, **options), model, amount, score) for model in (whole, split)
                )
                check_equal(expected, masks)
                assert said == also_said
                apply_masks(whole, expected)
                apply_masks(split, masks)
        assert sparsity_report(weight_layers(split)) == sparsity_report(weight_layers(whole))
        assert sparsity_report(weight_layers(whole)).masked
        for ours, theirs in zip(packed_bits(split), packed_bits(whole), strict=True):
            assert torch.equal(ours, theirs)


def parallelize(rank: int, seed: int) -> None:
    """Tensor parallelism in two processes, and FSDP2 of each part over two of them; one layer has FSDP2 alone."""
    torch.manual_seed(seed)
    grid = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data_parallel", "tensor_parallel"))
    whole, split = (nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 5)) for _ in range(2))
    for parameter in whole.parameters():
        parameter.data.mul_(8).round_()
    split.load_state_dict(whole.state_dict())
    parallelize_module(split, grid["tensor_parallel"], {"0": ColwiseParallel(), "1": RowwiseParallel()})
    for module in (*split, split):
        fully_shard(module, mesh=grid["data_parallel"])
    for amount in (0.3, 0.6):
        masks = compute_masks(weight_layers(split), amount)
        check_equal(compute_masks(weight_layers(whole), amount), masks)
        apply_masks(split, masks)
    assert sparsity_report(weight_layers(split)).zeros >= round(0.6 * (96 + 96 + 40))
    assert [name for name, mask in masks.items() if local(mask).numel() < mask.numel()] == ["0", "1", "2"]


def kept(model: nn.Module) -> dict[str, Tensor]:
    return {ref.name: mask for ref in weight_layers(model) if (mask := current_mask(ref)) is not None}


def packed_bits(model: nn.Module) -> list[Tensor]:
    return [entry["bits"] for entry in pack_masks(kept(model)).values()]


def compare_more(rank: int, seed: int) -> None:
    compare(rank, seed)
    parallelize(rank, seed)


def move(rank: int, seed: int) -> None:
    """Sums of split weights and gradients equal those of whole ones, also after the state has been saved, whole."""
    torch.manual_seed(seed)
    mesh = init_device_mesh("cpu", (2,))
    whole, split = ([nn.Linear(5, 3).weight, nn.Linear(3, 4).weight] for _ in range(2))
    split = [nn.Parameter(distribute_tensor(weight.detach(), mesh, [Shard(0)])) for weight in whole]
    ours, theirs, names = Movement(), Movement(), ["a", "b"]
    for step in range(4):
        for weight, part in zip(whole, split, strict=True):
            weight.grad = torch.randn_like(weight)
            part.grad = distribute_tensor(weight.grad, mesh, [Shard(0)])
        ours.observe(names, whole)
        theirs.observe(names, split)
        if step == 1:
            state = theirs.state_dict()
            assert not any(hasattr(total, "placements") for total in state.values())
            theirs = Movement()
            theirs.load_state_dict(state)
        if step == 2:
            assert all(hasattr(total, "placements") for total in theirs(split))
    check_equal(dict(zip(names, ours(whole), strict=True)), dict(zip(names, theirs(split), strict=True)))


def regrow(rank: int, seed: int) -> None:
    """Split weights are dropped and grown as whole ones are, ties included; infinite scores concern all processes."""
    torch.manual_seed(seed)
    mesh = init_device_mesh("cpu", (2,))
    values = [torch.randn(rows, 6).mul(4).round() for rows in (7, 4, 1)]
    scores = [torch.rand(value.shape).mul(9).round() for value in values]
    whole = layers(values)
    split = layers(distribute_tensor(value, mesh, [Shard(0)]) for value in values)
    for model in (whole, split):
        apply_masks(model, compute_masks(weight_layers(model), 0.6, RandomScore(seed), allocation="uniform"))
    expected = regrow_masks(weight_layers(whole), 0.5, lambda _: scores)
    for found in (
        regrow_masks(weight_layers(split), 0.5, lambda _: scores),
        regrow_masks(weight_layers(split), 0.5, lambda _: [distribute_tensor(s, mesh, [Shard(0)]) for s in scores]),
    ):
        for ours, theirs in zip(expected, found, strict=True):
            check_equal(ours, theirs)
    assert any(not torch.equal(*pair) for pair in zip(expected[0].values(), expected[1].values(), strict=True))
    scores[0][-1] = torch.inf  # in the part of the second process
    with pytest.raises(InputError, match="finite scores of `0`"):
        regrow_masks(weight_layers(split), 0.5, lambda _: scores)


def add_up(rank: int, seed: int) -> None:
    """RigL's sums of split gradients are those of whole ones, also after the state has been saved, whole."""
    torch.manual_seed(seed)
    mesh = init_device_mesh("cpu", (2,))
    trainer: Any = SimpleNamespace(global_step=0, precision_plugin=None)
    model: Any = nn.Sequential(nn.Linear(5, 3, bias=False), nn.Linear(3, 4, bias=False))
    split = layers(distribute_tensor(layer.weight.detach(), mesh, [Shard(0)]) for layer in model)
    callbacks = []
    for network in (model, split):
        callbacks.append(RigL(0.5, end_step=1000))
        callbacks[-1]._weights = weight_layers(network)
        callbacks[-1]._end = 1000
        apply_masks(network, compute_masks(callbacks[-1]._weights, 0.5, RandomScore(seed), allocation="uniform"))
    for step in range(3):
        for weight, part in zip(model.parameters(), [layer.weight for layer in split], strict=True):
            weight.grad = torch.randn_like(weight)
            part.grad = distribute_tensor(weight.grad, mesh, [Shard(0)])
        for callback in callbacks:
            callback.on_dense_gradients(trainer, model, torch.optim.SGD(model.parameters()))
        if step == 1:
            sums = {name: total.clone() for name, total in callbacks[1].state_dict()["sums"].items()}
            check_equal(callbacks[0].state_dict()["sums"], sums)
            assert not any(hasattr(total, "placements") for total in sums.values())
            callbacks[1]._sums = sums
    ours, theirs = ([*one.grow([ref.tensor for ref in one.weights])] for one in callbacks)
    check_equal(dict(zip("ab", ours, strict=True)), dict(zip("ab", theirs, strict=True)))
    assert all(hasattr(total, "placements") for total in theirs)


def refuse(rank: int) -> None:
    """A process that finds nothing wrong in its own part raises the same error as the others."""
    mesh = init_device_mesh("cpu", (2,))
    values = torch.full((4, 4), torch.nan if rank else 1.0)
    model = layers([distribute_tensor(values, mesh, [Shard(0)], src_data_rank=None)])
    with pytest.raises(InputError, match="weight of layer `0` to be finite"):
        compute_masks(weight_layers(model), 0.5)
    model = layers([distribute_tensor(torch.ones(4, 4), mesh, [Shard(0)])])
    with pytest.raises(InputError, match="finite scores"):
        compute_masks(weight_layers(model), 0.5, lambda weights: (weight / (1 - rank) for weight in weights))


def train(rank: int, seed: int, folder: Path) -> None:
    """Prune, train, evaluate, prune again and unmask a model under FSDP2; each process has other data."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(300, 500), nn.ReLU(), nn.Linear(500, 10))
    whole = compute_masks(weight_layers(model), 0.2)
    apply_masks(model, whole)
    unseen = [~mask for mask in whole.values()]
    unseen[0][:, :30] = True
    fully_shard(model[0])
    fully_shard(model)  # with the last layer, which stays whole after a forward pass without backward
    refs = weight_layers(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01, weight_decay=0.1)
    handle = hold_masks(model, optimizer)
    coverage = GradientCoverage(refs)
    largest = {}

    def step() -> None:
        images = torch.randn(8, 300, generator=generator)
        images[:, :30] = 0
        model(images).square().sum().backward()
        optimizer.step()
        for name, mask in kept(model).items():
            assert not local(model.get_submodule(name).weight)[~local(mask)].any()
        coverage.update()
        optimizer.zero_grad()

    generator = torch.Generator().manual_seed(seed + rank)
    for amount in (0.5, 0.8):
        for _ in range(3):
            step()
        with torch.no_grad(), Communicated() as sent:
            model(torch.randn(4, 300))
        largest["forward"] = max(sent.sizes)
        weight_layers(model)  # splits it again
        reference = layers(ref.tensor.full_tensor() for ref in refs)  # type: ignore[attr-defined]
        apply_masks(reference, {str(index): mask for index, mask in enumerate(whole.values())})
        with Communicated() as sent:
            masks = compute_masks(refs, amount)
        largest["prune"] = max(sent.sizes)
        whole = {name: mask.full_tensor() for name, mask in masks.items()}  # type: ignore[attr-defined]
        expected = compute_masks(weight_layers(reference), amount)
        for got, mask in zip(whole.values(), expected.values(), strict=True):
            assert torch.equal(got, mask)
        apply_masks(model, whole if amount == 0.5 else masks)  # either form
        clear_pruned_state(optimizer, model)
        before = [local(ref.tensor).clone() for ref in refs]
        for _ in range(3):
            step()
        for ref, old in zip(refs, before, strict=True):
            assert (local(ref.tensor) != old)[local(masks[ref.name])].float().mean() > 0.8

    with Communicated() as sent:
        report, untouched = sparsity_report(refs), coverage.untouched
    largest["report"] = max(sent.sizes)
    assert report.masked == report.zeros == round(0.8 * 155_000) == sum(int((~mask).sum()) for mask in whole.values())
    assert untouched == pytest.approx(sum(int(mask.sum()) for mask in unseen) / 155_000, abs=0.02)
    with Communicated() as sent:
        packed = pack_masks(masks)
    largest["state"] = max(sent.sizes)
    for name, mask in unpack_masks(packed).items():
        assert torch.equal(mask, whole[name])
    torch.save(largest, folder / f"largest{rank}.pt")

    assert remove_masks(model) == ["0.weight", "2.weight"]
    step()
    assert sparsity_report(refs).zeros < report.zeros
    handle.remove()


@pytest.mark.gate
def test_masks_of_several_processes_are_those_of_one(tmp_path: Path) -> None:
    seed = torch.seed() % 2**31
    run_group(compare, 2, tmp_path, seed)
    run_group(compare_more, 4, tmp_path, seed)


def test_movement_follows_split_weights(tmp_path: Path) -> None:
    run_group(move, 2, tmp_path, torch.seed() % 2**31)


def test_split_weights_regrow_as_whole_ones(tmp_path: Path) -> None:
    run_group(regrow, 2, tmp_path, torch.seed() % 2**31)


def test_sums_of_split_gradients_are_those_of_whole_ones(tmp_path: Path) -> None:
    run_group(add_up, 2, tmp_path, torch.seed() % 2**31)


def test_all_processes_raise_an_error_that_concerns_one(tmp_path: Path) -> None:
    run_group(refuse, 2, tmp_path)


def test_zeros_are_exact_under_fsdp2_and_weights_are_not_gathered(tmp_path: Path) -> None:
    seed = torch.seed() % 2**31
    run_group(train, 2, tmp_path, seed, tmp_path)
    for rank in range(2):
        # the largest tensors that were communicated, in bytes
        largest = torch.load(tmp_path / f"largest{rank}.pt")
        assert largest["forward"] > 300 * 500 * 4  # what is gathered is noticed
        assert largest["prune"] <= (2**12 + 1) * 8  # a histogram
        assert largest["report"] < 100  # a count for each layer, and where each part is
        assert largest["state"] < 300 * 500 // 8 + 2 * 1024  # one bit per weight, and up to 1 KiB of pickle per process
