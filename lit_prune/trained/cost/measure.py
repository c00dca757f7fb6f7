"""What the ways to run a network cost, measured side by side."""

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from lit_prune.errors import expected
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.functional.flops import input_shape
from lit_prune.trained.cost.latency import Latency, measure
from lit_prune.trained.cost.variants import Kind, Variant, variants

__all__ = ["Comparison", "Cost", "check_measuring", "compare"]


@dataclass(frozen=True)
class Cost:
    """What one way to run a network costs.

    Attributes:
        variant: Which.
        latency: By batch size, of one call.
        difference: The largest difference of a logit from those of torch's own layers with the same weights, on random
            images; None for "dense" ones in the place of zeros, which are another network.
    """

    variant: Variant
    latency: Mapping[int, Latency]
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """What several ways to run networks cost, measured in turns in one process.

    Attributes:
        costs: The first one is what the others are compared with.
        input_size: Height and width of the images.
        threads: That torch and ONNX Runtime computed with.
        machine: Processor, instructions and versions, as text by name.
        zeros: By network, the fraction of its weights that are zero.
    """

    costs: tuple[Cost, ...]
    input_size: int
    threads: int
    machine: Mapping[str, str]
    zeros: Mapping[str, float]

    @property
    def batches(self) -> tuple[int, ...]:
        """Images in a call."""
        return tuple(self.costs[0].latency)

    def find(self, network: str, kind: Kind) -> Cost | None:
        """Look a variant up; None if it was not measured."""
        return next((c for c in self.costs if (c.variant.network, c.variant.kind) == (network, kind)), None)

    def speed(self, cost: Cost, batch: int) -> float:
        """How many times as fast as the first variant one is."""
        return self.costs[0].latency[batch].over(cost.latency[batch])


def check_measuring(input_size: int, batches: Sequence[int], rounds: int) -> None:
    """Check, before any work, what is to be measured.

    Args:
        input_size: As for `compare`.
        batches: As for `compare`.
        rounds: As for `compare`.

    Raises:
        InputError: If one of them cannot be used.
    """
    if input_size < 1:
        raise expected("`input_size` to be at least 1", input_size, "32 is that of CIFAR-10")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise expected("`batches` to be different numbers from 1 on", str(list(batches)), "[1,128] shows both ends")
    if rounds < 1:
        raise expected("`rounds` to be at least 1", rounds, "the median of eleven is steady on most machines")


def compare(
    networks: Mapping[str, nn.Module],
    input_size: int,
    batches: Sequence[int],
    rounds: int,
    onnx: bool = True,
    turn: float = 0.1,
) -> Comparison:
    """Measure what networks cost.

    Args:
        networks: Modules that map images to logits, by what to call them; not masked. They are left as they are.
        input_size: Height and width of the images.
        batches: Images in a call, each at least one.
        rounds: Turns of each variant, as in `lit_prune.trained.cost.latency.measure`.
        onnx: Whether to export and to measure ONNX files too.
        turn: Seconds of a turn.

    Returns:
        The costs of every variant of every network, with as many threads as torch has.

    Raises:
        InputError: If an argument cannot be used, or a network does not take such images.
    """
    check_measuring(input_size, batches, rounds)
    shape = input_shape(next(iter(networks.values())), input_size)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) if onnx else None
        made = [
            variant
            for number, (name, model) in enumerate(networks.items())
            for variant in variants(name, model, input_size, place, shape[0], filled=number == 0)
        ]
        timed = []
        with torch.inference_mode():
            for batch in batches:
                images = torch.randn(batch, *shape, generator=torch.Generator().manual_seed(0))
                calls = {str(n): partial(v.forward, _laid_out(images, v)) for n, v in enumerate(made)}
                timed.append(list(measure(calls, rounds, turn).values()))
            differences = _differences(made, images)
    costs = tuple(
        Cost(variant, dict(zip(batches, latencies, strict=True)), difference)
        for variant, latencies, difference in zip(made, zip(*timed, strict=True), differences, strict=True)
    )
    zeros = {name: sparsity_report(weight_layers(model)).sparsity for name, model in networks.items()}
    return Comparison(costs, input_size, torch.get_num_threads(), _machine(), zeros)


def _laid_out(images: Tensor, variant: Variant) -> Tensor:
    return images.contiguous(memory_format=variant.layout)


def _differences(made: Sequence[Variant], images: Tensor) -> list[float | None]:
    found: list[float | None] = []
    wanted: dict[str, Tensor] = {}
    with_zeros = {variant.network for variant in made if variant.kind == "zeros"}
    for variant in made:
        logits: Tensor = variant.forward(_laid_out(images, variant))
        if variant.kind == ("zeros" if variant.network in with_zeros else "dense"):
            wanted[variant.network] = logits
        other = wanted.get(variant.network)
        found.append(None if other is None else float((logits - other).abs().max()))
    return found


def _machine() -> dict[str, str]:
    return {
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
