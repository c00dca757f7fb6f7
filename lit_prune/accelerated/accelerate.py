"""Replace layers of a network by faster ones with the same outputs, and only where these save time."""

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from math import inf, isfinite
from typing import Any

import torch
from torch import Tensor, nn

from lit_prune.accelerated.candidates import make_alternatives, sparsity_of, watch, why_dense
from lit_prune.accelerated.conversion import convert, using
from lit_prune.accelerated.report import MARGIN, Acceleration, LayerTimes
from lit_prune.accelerated.timing import compare_networks, time_layers
from lit_prune.errors import InputError, UnfinishedError, check_integer, expected, one_line
from lit_prune.functional.plain import plain_copy

Run = Callable[[nn.Module], Any]
# if all winners together do not make the network faster, only those that win by more are kept
_MARGINS = (MARGIN, 1.5, 2.5)
_NEEDED = "the network reads attributes that a replacement lacks"


def accelerate(model: nn.Module, example_input: Any, *, rounds: int = 7, tolerance: float | None = None) -> nn.Module:
    """Copy a network for inference, with other layers where these are faster for inputs like an example.

    Each linear layer, attention projection and convolution is measured inside the network, as it is and with what
    could replace it: a product with its non-zero weights only ("sparse"); for convolutions of feature maps of at most
    four pixels, a product without kernel positions that only ever see padding ("cropped"); on a GPU, a product with 2:4
    sparsity ("2:4"). A layer is converted if that makes it at least 1.1 times as fast. If the converted network is
    slower as a whole, only the layers with larger gains are converted, or none. If its outputs differ from those of the
    model by more than `tolerance`, an error is raised.

    The copy gives the outputs of the model for batches of any size, but was measured to be faster only for batches like
    the example, on this machine, with the current number of threads. If a convolution was converted for feature maps of
    one size, images that lead to another size raise an error. The copy computes no gradients and refuses training mode.
    Layers stay dense if their weights are not float32 (on the CPU), are shared between layers, computed
    (parametrizations, hooks) or also used outside the layer.

    Args:
        model: Any module, masked or not. It is not changed.
        example_input: Argument of the model, a tuple of several, or a dictionary of arguments by name.
        rounds: Number of times to measure each layer and the network; medians decide.
        tolerance: Largest allowed difference of an output, as a multiple of the largest absolute output or of 1,
            whichever is larger (default: 1e-4, or 1e-2 for half precision).

    Returns:
        A `plain_copy` of the model, in evaluation mode, whose attribute `acceleration` is the `Acceleration` with all
        measured times; `print(network.acceleration)` shows it as a table. `lit_prune.save_accelerated` and
        `lit_prune.load_accelerated` save and load it. If nothing is faster, no layer is replaced.

    Raises:
        InputError: If an argument is invalid, or the model cannot process the example or returns no tensors.
        UnfinishedError: If the outputs of the converted network differ by more than `tolerance`, or if the model gives
            different outputs when it is called twice.
    """
    check_integer("rounds", rounds, 1, hint="7 rounds give a stable median on most machines")
    if tolerance is not None and not tolerance >= 0:
        raise expected("`tolerance` of at least 0", tolerance, "leave it out for the default")
    run = _make_runner(example_input)
    base = plain_copy(model).requires_grad_(False)
    wanted = _first_outputs(base, run)
    attentions = _find_attentions(base, run)
    layers, choices = _measure_layers(convert(deepcopy(base), attentions, {}), run, rounds)
    for margin in (*_MARGINS, inf):
        winners = {layer.name: kind for layer in layers if (kind := layer.fastest(margin)) != "dense"}
        # without a converted layer next to it, an attention is not opened, so that torch's fused encoder layer can run
        opened = {name: packed for name, packed in attentions.items() if _is_near(name, winners)}
        chosen = {name: choices[name][kind] for name, kind in winners.items()}
        network = convert(deepcopy(base), opened, chosen)
        if not _works(network, run):
            continue
        difference, allowed = _compare_outputs(wanted, _flatten(run(network)), tolerance)
        before, after = compare_networks(base, network, run, rounds)
        decided = tuple(_decide(layer, winners.get(layer.name)) for layer in layers)
        inputs, threads = _describe(example_input), torch.get_num_threads()
        report = Acceleration(decided, before, after, difference, allowed, inputs, threads)
        if report.speed >= 1 or not winners:
            break
    network.acceleration = report  # type: ignore[assignment]
    return network


def _make_runner(example: Any) -> Run:
    """Return a function that runs a network on copies of the example, which a network may overwrite."""

    def copied(value: Any) -> Any:
        return value.clone() if isinstance(value, Tensor) else value

    def run(network: nn.Module) -> Any:
        with torch.inference_mode():
            if isinstance(example, Mapping):
                return network(**{name: copied(value) for name, value in example.items()})
            return network(*map(copied, example if isinstance(example, tuple) else (example,)))

    return run


def _first_outputs(network: nn.Module, run: Run) -> list[Tensor]:
    """Run a network twice, and return its outputs; raise an `UnfinishedError` if the second ones differ."""
    name = type(network).__name__
    try:
        outputs = _flatten(run(network))
    except (InputError, UnfinishedError, MemoryError):
        raise
    except Exception as error:  # a custom `forward` may raise anything
        what = f"an `example_input` that {name} accepts"
        hint = "give a tensor, a tuple of arguments, or a dictionary of arguments by name"
        raise expected(what, f"{type(error).__name__} ({one_line(error)})", hint) from error
    if not outputs:
        raise expected(f"{name} to return tensors", "none", "accelerate the part of the network that does")
    _compare_outputs(outputs, _flatten(run(network)), None, f"{name}, called twice with the same inputs,")
    return outputs


def _flatten(output: Any) -> list[Tensor]:
    """List the tensors in nested tuples, lists and dictionaries."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if isinstance(output, Mapping) else output if isinstance(output, tuple | list) else ()
    return [tensor for part in parts for tensor in _flatten(part)]


def _compare_outputs(
    wanted: Sequence[Tensor], found: Sequence[Tensor], tolerance: float | None, who: str = "The converted network"
) -> tuple[float, float]:
    """Return the largest difference and the largest allowed difference, or raise an `UnfinishedError`."""
    half = any(tensor.dtype in (torch.float16, torch.bfloat16) for tensor in wanted)
    largest = [float(tensor.abs().max()) for tensor in wanted if tensor.numel()]
    finite = [value for value in largest if isfinite(value)]
    allowed = ((1e-2 if half else 1e-4) if tolerance is None else tolerance) * max([1.0, *finite])
    shapes = [[tensor.shape for tensor in tensors] for tensors in (wanted, found)]
    difference = inf
    if shapes[0] == shapes[1]:
        pairs = zip(wanted, found, strict=True)
        gaps = [torch.where(torch.isclose(a, b, 0, 0, equal_nan=True), 0, (a - b).abs()) for a, b in pairs]
        difference = max((float(gap.nan_to_num(inf).max()) for gap in gaps if gap.numel()), default=0.0)
    if difference > allowed:
        raise UnfinishedError(
            f"{who} gives outputs that differ by {difference:.2g}; at most {allowed:.2g} is allowed. Nothing was "
            "converted."
        )
    return difference, allowed


def _find_attentions(network: nn.Module, run: Run) -> dict[str, bool]:
    """Return the attentions that `OpenAttention` can replace, and whether each projects its inputs in one product."""
    seen = watch(network, run)
    reasons = why_dense(network, seen)
    found = {}
    for name, about in seen.items():
        if _is_attention(network, name) and not reasons[name]:
            found[name] = about.same and network.get_submodule(name).in_proj_weight is not None

    def works(attentions: dict[str, bool]) -> bool:
        return _works(convert(deepcopy(network), attentions, {}), run)

    return found if works(found) else {name: packed for name, packed in found.items() if works({name: packed})}


def _is_attention(network: nn.Module, name: str) -> bool:
    return isinstance(network.get_submodule(name), nn.MultiheadAttention)


def _works(network: nn.Module, run: Run) -> bool:
    """Return whether a network runs, and does not read what only the replaced layers have, such as `kernel_size`."""
    try:
        run(network)
    except (InputError, UnfinishedError, MemoryError):
        raise
    except Exception:  # a custom `forward` may raise anything
        return False
    return True


def _measure_layers(
    network: nn.Module, run: Run, rounds: int
) -> tuple[list[LayerTimes], dict[str, dict[str, nn.Module]]]:
    """Return the times of each layer, and the possible replacements of each layer that has some, by kind."""
    seen = watch(network, run)
    reasons = why_dense(network, seen)
    reasons |= {n: _NEEDED for n, why in reasons.items() if not why and _is_attention(network, n)}
    choices = {
        name: made
        for name, reason in reasons.items()
        if not reason and (made := make_alternatives(network.get_submodule(name), seen[name]))
    }
    needed = _find_needed(network, run, choices)
    choices = {name: made for name, made in choices.items() if name not in needed}
    reasons |= dict.fromkeys(needed, _NEEDED)
    seconds = time_layers(network, run, choices, rounds)
    layers = []
    for name, reason in reasons.items():
        sparsity = sparsity_of(network.get_submodule(name))
        layers.append(LayerTimes(name, sparsity, seconds.get(name, {}), reason=reason))
    return layers, choices


def _find_needed(network: nn.Module, run: Run, choices: Mapping[str, Mapping[str, nn.Module]]) -> list[str]:
    """Return the layers without which the network does not run, because it reads what their replacements lack."""

    def works(layers: Mapping[str, nn.Module]) -> bool:
        with using(network, layers) as changed:
            return _works(changed, run)

    kinds = {kind for made in choices.values() for kind in made}
    if all(works({name: made[kind] for name, made in choices.items() if kind in made}) for kind in kinds):
        return []
    return [name for name, made in choices.items() if not all(works({name: layer}) for layer in made.values())]


def _is_near(attention: str, layers: Mapping[str, str]) -> bool:
    """Return whether any of the layers is inside the module that contains an attention."""
    parent = attention.rpartition(".")[0]
    return any(name.startswith(f"{parent}." if parent else "") for name in layers)


def _decide(layer: LayerTimes, kind: str | None) -> LayerTimes:
    if kind is not None:
        return replace(layer, runs_as=kind)
    if layer.reason:
        return layer
    if not layer.seconds:
        return replace(layer, reason="nothing that could replace it is likely to be faster")
    best = max((other for other in layer.seconds if other != "dense"), key=layer.speed)
    speed = layer.speed(best)
    lost = f"{best} is only {speed:.2f} times as fast"
    return replace(layer, reason=lost if speed < MARGIN else f"{lost}, which did not make the whole network faster")


def _describe(example: Any) -> str:
    values = example.values() if isinstance(example, Mapping) else example if isinstance(example, tuple) else (example,)
    return " and ".join(str(list(value.shape)) for value in values if isinstance(value, Tensor))
