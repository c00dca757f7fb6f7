"""Channels that layers share, as in residual connections: find them, and choose the least important ones."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves, tree_map

from lit_prune.errors import expected, one_line
from lit_prune.functional.extras import import_extra, silence_libraries
from lit_prune.functional.plain import plain_copy

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class CoupledChannels:
    """Channels of a network that, once they are zero, can be removed without changing its outputs.

    Attributes:
        rows: For each weight, bias and norm parameter, by the name that `apply_masks` takes: the number of the channel
            that each of its rows computes, or -1 for rows that are never pruned.
        groups: For each channel, the number of its group: channels of the same layers.
        roots: For each group, the name of a layer with weights that computes all its channels, in their order.
        weights: Names of the weights among `rows`, which are scored; the others are pruned with them.
    """

    rows: Mapping[str, Tensor]
    groups: Tensor
    roots: Sequence[str]
    weights: Sequence[str]

    def mark_lowest(
        self, names: Sequence[str], scores: Iterable[Tensor], total: int, limits: Sequence[float], shared: bool
    ) -> Iterator[Tensor]:
        """Mark the channels of lowest mean score over all weights that compute them; each group keeps at least one.

        Args:
            names: Names of the weights.
            scores: Flat scores of each weight, infinite where it is pruned already.
            total: Largest number of weights to mark; used if `shared`.
            limits: Largest fraction of each layer; a group gets the mean of its layers. Rounded to the nearest number
                of channels, or down if `shared`.
            shared: Whether channels of all groups are compared. If not, each group is pruned up to its limit.

        Yields:
            For each weight a flat bool tensor that is true for the rows of the marked channels.
        """
        scores = [*scores]
        groups = self.groups.to(scores[0].device)
        count = len(groups)
        rows = [self.rows[name].to(groups.device) % (count + 1) for name in names]  # -1 becomes `count`
        sums, left, limit, size = scores[0].new_zeros(4, count + 1)
        for row, values, most in zip(rows, scores, limits, strict=True):
            table = values.view(len(row), -1)
            finite = table.isfinite()
            sums.index_add_(0, row, table.masked_fill(~finite, 0).sum(1))
            left.index_add_(0, row, finite.sum(1).to(left.dtype))
            size.index_add_(0, row, left.new_full((len(row),), table.shape[1]))
            limit.index_add_(0, row, left.new_full((len(row),), most * table.shape[1]))
        means, left = (sums / left)[:count].masked_fill(left[:count] == 0, math.inf), left[:count]
        for group in range(len(self.roots)):
            mine = torch.nonzero(groups == group).flatten()
            most = float(limit[mine].sum() / size[mine].sum()) * len(mine)
            room = min(len(mine) - 1, math.floor(most + 1e-6) if shared else round(most)) - int((left[mine] == 0).sum())
            means[mine[means[mine].argsort(stable=True)][max(0, room) :]] = math.inf
        order = means.argsort(stable=True)
        marked = torch.zeros(count + 1, dtype=torch.bool, device=groups.device)
        fits = left[order].cumsum(0) <= total if shared else True
        marked[order] = means[order].isfinite() & fits
        for row, values in zip(rows, scores, strict=True):
            yield marked[row][:, None].expand(-1, len(values) // len(row)).flatten()

    def dependent_masks(self, masks: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return masks of biases and norms that prune the channels whose rows are pruned in the given masks."""
        kept = torch.ones(len(self.groups) + 1, dtype=torch.bool)
        for name, mask in masks.items():
            kept[self.rows[name][~mask.flatten(1).any(1).cpu()]] = False
        kept[-1] = True
        return {name: kept[row] for name, row in self.rows.items() if name not in self.weights}

    def zero_channels(self, model: nn.Module) -> list[tuple[str, list[int]]]:
        """Return, for each group, its root and the root's rows whose channels are zero in all their parameters."""
        named = dict(model.named_parameters(remove_duplicate=False))
        alive = torch.zeros(len(self.groups) + 1, dtype=torch.bool)
        for name, row in self.rows.items():
            value = named[name] if name in named else named[f"{name}.weight"]
            alive[row[value.detach().cpu().reshape(len(row), -1).ne(0).any(1)]] = True
        dead = ~alive[:-1]
        numbers = [torch.nonzero(self.groups == group).flatten() for group in range(len(self.roots))]
        return [
            (root, torch.nonzero(dead[mine]).flatten().tolist()) for root, mine in zip(self.roots, numbers, strict=True)
        ]


def couple_channels(model: nn.Module, example: Any, names: Iterable[str] | None = None) -> CoupledChannels:
    """Find the channels of a network that can be pruned together in all layers that compute them.

    Layers whose outputs are added or multiplied, and depthwise convolutions and norms that follow them, share channels.
    The library torch-pruning finds them with a dependency graph (Fang et al. 2023, https://arxiv.org/abs/2301.12900).
    A group of layers is left out if its channels are outputs of the network, if `names` lacks one of its layers, if a
    channel of zeros does not arrive as zeros at the next layer, as after a sigmoid, or if it contains anything other
    than linear layers, affine batch norms, convolutions that are depthwise or have one group, and functions without
    parameters, such as additions. In a layer norm, for example, removing a channel changes the outputs of the others.

    Args:
        model: Model that calls convolutions, batch norms and linear layers as modules. It is not changed.
        example: Input of a forward pass, like the `example_input_array` of a LightningModule.
        names: Names of the layers that may be pruned. None allows all.

    Returns:
        The channels. Pruning a channel prunes whole rows of every weight that computes it.

    Raises:
        InputError: If torch-pruning is not installed or cannot follow the network, if no group is left, or if outputs
            change when one zero channel of every group is removed.
    """
    pruning = import_extra("torch_pruning", "structured")
    copied = plain_copy(model).cpu().float().requires_grad_(True)
    example = tree_map(_as_example, example)
    hint = "set `self.example_input_array` to an input of the model, or prune other structures"
    try:
        with silence_libraries(), torch.enable_grad(), torch.random.fork_rng(devices=[]):
            graph = pruning.DependencyGraph().build_dependency(copied, example)
            found = [list(group) for group in graph.get_all_groups(root_module_types=[*_CONVOLUTIONS, nn.Linear])]
    except Exception as error:  # whatever the forward pass of a third-party network raises
        raise expected("a network whose channels torch-pruning can follow", one_line(error), hint) from error
    labels = {module: name for name, module in copied.named_modules()}
    allowed = set(labels.values()) if names is None else set(names)
    candidates = [group for group in found if _is_removable(group, graph, labels, allowed)]
    with torch.random.fork_rng(devices=[]):
        example = tree_map(lambda value: value + torch.randn_like(value) if _is_float(value) else value, example)
    candidates = _passing_zeros(candidates, graph, copied, example)
    rows: dict[str, Tensor] = {}
    groups: list[int] = []
    roots: list[str] = []
    weights: list[str] = []
    for number, group in enumerate(candidates):
        offset = len(groups)
        groups += [number] * len(group[0].idxs)
        roots.append(labels[group[0].dep.target.module])
        for item in _computing(group, graph):
            module = item.dep.target.module
            for key, parameter in module.named_parameters(recurse=False):
                name = labels[module] if key == "weight" else f"{labels[module]}.{key}"
                row = rows.setdefault(name, torch.full((len(parameter),), -1))
                row[item.idxs] = offset + torch.tensor(item.root_idxs)
                if key == "weight" and not isinstance(module, _BatchNorm) and name not in weights:
                    weights.append(name)
    if not roots:
        raise expected("layers whose channels can be removed", f"none in {type(model).__name__}", hint)
    _check_removal(candidates, graph, copied, example)
    return CoupledChannels(rows, torch.tensor(groups), roots, weights)


def _as_example(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    value = value.detach().cpu()
    return value.float() if value.is_floating_point() else value


def _is_float(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _call(model: nn.Module, example: Any) -> Any:
    if isinstance(example, dict):
        return model(**example)
    return model(*example) if isinstance(example, tuple | list) else model(example)


def _computing(group: Any, graph: Any) -> list[Any]:
    """Return the entries of a group for layers with parameters that compute its channels."""
    kinds = (*_CONVOLUTIONS, nn.Linear, _BatchNorm)
    return [item for item in group if _is_output(item, graph) and isinstance(item.dep.target.module, kinds)]


def _is_output(item: Any, graph: Any) -> bool:
    module = item.dep.target.module
    return bool(item.dep.handler == graph.get_pruner_of_module(module).prune_out_channels) or isinstance(
        module, _BatchNorm
    )


def _is_removable(group: Any, graph: Any, labels: Mapping[nn.Module, str], allowed: set[str]) -> bool:
    """Return whether channels can be removed from every layer of a group, and every layer is allowed."""
    origins: dict[tuple[Any, bool, int], int] = {}
    for item in group:
        module, computes = item.dep.target.module, _is_output(item, graph)
        weighted = isinstance(module, (*_CONVOLUTIONS, nn.Linear))
        depthwise = computes and getattr(module, "groups", 1) == getattr(module, "out_channels", 1)
        affine = isinstance(module, _BatchNorm) and module.affine
        function = type(module).__module__.startswith("torch_pruning")
        if not (affine or function or (weighted and (getattr(module, "groups", 1) == 1 or depthwise))):
            return False
        if computes and (not item.dep.target.outputs or (weighted and labels[module] not in allowed)):
            return False
        for index, origin in zip(item.idxs, item.root_idxs, strict=True):
            # one position that depends on two channels, as in gates, cannot be removed with one of them
            if not function and origins.setdefault((module, computes, index), origin) != origin:
                return False
    return True


@torch.no_grad()
def _passing_zeros(groups: list[Any], graph: Any, model: nn.Module, example: Any) -> list[Any]:
    """Return the groups whose channels arrive as zeros at the next layers if their parameters are zero."""
    kept = {
        parameter: parameter.clone()
        for group in groups
        for item in _computing(group, graph)
        for parameter in item.dep.target.module.parameters(recurse=False)
    }
    readers: dict[nn.Module, list[tuple[int, Any]]] = {}
    for number, group in enumerate(groups):
        for item in _computing(group, graph):
            for parameter in item.dep.target.module.parameters(recurse=False):
                parameter[item.idxs] = 0
        for item in group:
            if not _is_output(item, graph):
                readers.setdefault(item.dep.target.module, []).append((number, item.idxs))
    failed = set[int]()

    def check(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        axis = -1 if isinstance(module, nn.Linear) else 1
        for number, indices in readers[module]:
            if inputs[0].index_select(axis, torch.tensor(indices)).count_nonzero():
                failed.add(number)

    handles = [module.register_forward_pre_hook(check) for module in readers]
    _call(model, example)
    for handle in handles:
        handle.remove()
    for parameter, value in kept.items():
        parameter.copy_(value)
    return [group for number, group in enumerate(groups) if number not in failed]


@torch.no_grad()
def _check_removal(groups: list[Any], graph: Any, model: nn.Module, example: Any) -> None:
    """Zero the first channel of every group and remove it, and raise an `InputError` if outputs change.

    torch-pruning gets the positions of channels wrong in some networks, for example if a sum is concatenated with the
    output of a layer that reads this sum.
    """
    groups = [group for group in groups if len(group[0].idxs) > 1]
    for group in groups:
        for item in _computing(group, graph):
            first = [index for index, origin in zip(item.idxs, item.root_idxs, strict=True) if origin == 0]
            for parameter in item.dep.target.module.parameters(recurse=False):
                parameter[first] = 0
    before = tree_leaves(_call(model, example))
    change = "outputs that change when channels of zeros are removed"
    try:
        with silence_libraries():
            for group in groups:
                graph.get_pruning_group(group[0].dep.target.module, group[0].dep.handler, [0]).prune()
        after = tree_leaves(_call(model, example))
        equal = all(
            one.shape == two.shape and torch.allclose(one, two, rtol=1e-3, atol=1e-4 * float(one.abs().max()))
            for one, two in zip(before, after, strict=True)
            if _is_float(one)
        )
    except (RuntimeError, ValueError, IndexError) as error:
        equal, change = False, one_line(error)
    if not equal:
        hint = "leave out layers whose outputs are added or concatenated, with `exclude`, or prune other structures"
        raise expected("a network from which torch-pruning removes channels exactly", change, hint)
