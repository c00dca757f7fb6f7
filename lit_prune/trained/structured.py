"""Removing whole channels, which leaves a smaller dense network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional.cropping import crop_kernels
from lit_prune.functional.plain import plain_copy
from lit_prune.trained.extras import import_extra

__all__ = ["check_removal", "narrowed"]


def check_removal(ratio: float, round_to: int, input_size: int) -> Any:
    """Check, before any work, what can be checked of a removal; return the library that does it.

    Args:
        ratio: As for `narrowed`.
        round_to: As for `narrowed`.
        input_size: As for `narrowed`.

    Raises:
        InputError: If one cannot be used, or torch-pruning is not installed.
    """
    if not 0 < ratio < 1:
        raise expected("`ratio` in (0, 1)", ratio, "0.5 removes half of the channels")
    if round_to < 1:
        raise expected("`round_to` to be at least 1", round_to, "8 suits many processors, 1 rounds nothing")
    if input_size < 1:
        raise expected("`input_size` to be at least 1", input_size, "32 is that of CIFAR-10")
    return import_extra("torch_pruning", "structured")


def narrowed(model: nn.Module, ratio: float, input_size: int, keep: Sequence[str], round_to: int = 1) -> nn.Module:
    """Copy a model without the channels of least magnitude.

    Channels that are added to each other, as by residual connections, go together: the dependency graph of
    Fang et al. 2023 (https://arxiv.org/abs/2301.12900), by the library torch-pruning, finds which. What a channel is
    worth is the L1 norm of the weights that make it (Li et al. 2017, https://arxiv.org/abs/1608.08710) and of those
    that read it, averaged over its layers. Taps that see padding alone at this size do not count: they never learn,
    and what they began with would decide.

    Every group of layers loses the same fraction. In one ranking over all of them narrow layers would lose to wide
    ones for having fewer weights to sum up, and some would be emptied.

    Args:
        model: Convolutions, batch norms and linear layers, put together by operations of torch; it is left as it is.
        ratio: Fraction of the channels to remove, in (0, 1). Of n channels round((1 - ratio) n) stay, at least one.
        input_size: Height and width of its images, in pixels.
        keep: Names of layers whose outputs stay, such as the classifier.
        round_to: Numbers of channels become a multiple of this, where a layer has as many.

    Returns:
        What `lit_prune.functional.plain` makes of the model, with fewer channels.

    Raises:
        InputError: If `ratio` or `round_to` cannot be used, a name in `keep` is no layer, the model does not take
            images of this size, or torch-pruning is not installed.
    """
    pruning = check_removal(ratio, round_to, input_size)
    narrow, ranked = plain_copy(model), crop_kernels(model, input_size)
    layers = dict(narrow.named_modules())
    if unknown := [name for name in keep if name not in layers]:
        raise expected("`keep` to name layers", f"`{unknown[0]}`", "`named_modules()` lists them")
    example = torch.zeros(2, 3, input_size, input_size)
    # the graph is found by following gradients
    graph = pruning.DependencyGraph().build_dependency(narrow.requires_grad_(True), example)
    handlers = {nn.Conv2d: pruning.prune_conv_out_channels, nn.Linear: pruning.prune_linear_out_channels}
    for name, channels in _lowest(pruning, ranked.requires_grad_(True), example, keep, ratio, round_to):
        if channels:
            handler = next(handler for kind, handler in handlers.items() if isinstance(layers[name], kind))
            graph.get_pruning_group(layers[name], handler, channels).prune()
    return narrow


def _lowest(
    pruning: Any, model: nn.Module, example: Tensor, keep: Sequence[str], ratio: float, round_to: int
) -> list[tuple[str, list[int]]]:
    """Rank the channels of each group; name its first layer, and the channels of that to remove."""
    layers = dict(model.named_modules())
    names = {layer: name for name, layer in layers.items()}
    graph = pruning.DependencyGraph().build_dependency(model, example)
    importance = pruning.importance.GroupMagnitudeImportance(p=1, normalizer=None, target_types=[nn.Conv2d, nn.Linear])
    groups = graph.get_all_groups(
        ignored_layers=[layers[name] for name in keep], root_module_types=[nn.Conv2d, nn.Linear]
    )
    found = []
    for group in groups:
        scores: Tensor = importance(group)
        kept = min(len(scores), max(round_to, round(len(scores) * (1 - ratio) / round_to) * round_to))
        lowest = scores.argsort(stable=True)[: len(scores) - kept]
        found.append((names[group[0].dep.target.module], sorted(lowest.tolist())))
    return found
