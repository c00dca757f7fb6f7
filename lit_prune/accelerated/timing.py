"""Measure how long each layer takes inside its network, and how long whole networks take."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from lit_prune.accelerated.conversion import using

Clock = Callable[[], float]
# seconds for which forward passes are repeated in each turn; at least one pass runs
_TURN = 0.05


def time_layers(
    network: nn.Module,
    run: Callable[[nn.Module], Any],
    alternatives: Mapping[str, Mapping[str, nn.Module]],
    rounds: int,
    clock: Clock | None = None,
) -> dict[str, dict[str, list[float]]]:
    """Measure layers inside their network, as they are ("dense") and with each alternative.

    A layer called repeatedly on its own would find its weights in the caches of the processor; inside a network, the
    weights of other layers have replaced them there. So the whole network runs, in turn with all layers dense and with
    all alternatives of each kind; each turn begins with an unmeasured pass.

    Args:
        network: Network in evaluation mode.
        run: Function that runs a network on the example.
        alternatives: For each layer, by name: what could replace it, by kind.
        rounds: Number of rounds.
        clock: Function that returns the time in seconds.

    Returns:
        Seconds that a layer takes in a forward pass, all of its calls together: for each layer and kind, one number
        for each round.
    """
    clock = clock or _clock_of(network)
    kinds = ["dense", *sorted({kind for kind_of in alternatives.values() for kind in kind_of})]
    seconds: dict[str, dict[str, list[float]]] = {
        name: {kind: [] for kind in ("dense", *own)} for name, own in alternatives.items()
    }
    repeats: dict[str, int] = {}
    for number in range(rounds + 1):
        for kind in kinds:
            layers = {name: own[kind] for name, own in alternatives.items() if kind in own}
            timed = layers if kind != "dense" else {name: network.get_submodule(name) for name in alternatives}
            with using(network, layers) as changed:
                began = clock()
                run(changed)
                repeats.setdefault(kind, max(1, int(_TURN / max(clock() - began, 1e-9))))
                if number == 0:  # the first passes are slow, because they initialise caches
                    continue
                spent = _time_calls(timed, partial(run, changed), repeats[kind], clock)
            for name, value in spent.items():
                seconds[name][kind].append(value)
    return seconds


def _time_calls(
    layers: Mapping[str, nn.Module], call: Callable[[], Any], repeats: int, clock: Clock
) -> dict[str, float]:
    """Return the seconds that each layer takes in a call, the mean of `repeats` calls."""
    spent = dict.fromkeys(layers, 0.0)

    def enter(name: str) -> Callable[..., None]:
        def start(*_: Any) -> None:
            spent[name] -= clock()

        return start

    def leave(name: str) -> Callable[..., None]:
        def stop(*_: Any) -> None:
            spent[name] += clock()

        return stop

    hooks = []
    for name, layer in layers.items():
        hooks += [layer.register_forward_pre_hook(enter(name)), layer.register_forward_hook(leave(name))]
    try:
        for _ in range(repeats):
            call()
    finally:
        for hook in hooks:
            hook.remove()
    return {name: value / repeats for name, value in spent.items()}


def compare_networks(
    before: nn.Module, after: nn.Module, run: Callable[[nn.Module], Any], rounds: int, clock: Clock | None = None
) -> tuple[list[float], list[float]]:
    """Measure the seconds of a forward pass of two networks in turn, one number of each for each round."""
    clock = clock or _clock_of(before)
    seconds: dict[int, list[float]] = {0: [], 1: []}
    repeats: dict[int, int] = {}
    for number in range(rounds + 1):
        for index, network in enumerate((before, after)):
            began = clock()
            run(network)
            repeats.setdefault(index, max(1, int(_TURN / max(clock() - began, 1e-9))))
            began = clock()
            for _ in range(repeats[index]):
                run(network)
            if number > 0:
                seconds[index].append((clock() - began) / repeats[index])
    return seconds[0], seconds[1]


def speedup(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the median of the ratios of times of the same round, since the machine may be busier in another one."""
    return statistics.median(one / other for one, other in zip(before, after, strict=True))


def _clock_of(network: nn.Module) -> Clock:
    """Return a clock that waits for the GPU if the network is on one."""
    if not any(parameter.is_cuda for parameter in network.parameters()):
        return time.perf_counter

    def wait() -> float:
        torch.cuda.synchronize()
        return time.perf_counter()

    return wait
