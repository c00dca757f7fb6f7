"""Measure several networks in one process, each in all its variants (ways to run it)."""

import platform
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from lit_prune.errors import check_integer, expected
from lit_prune.functional import sparsity_report, weight_layers
from lit_prune.trained.cost.latency import Latency, measure
from lit_prune.trained.cost.variants import Kind, Variant, make_variants
from lit_prune.trained.flops import input_shape
from lit_prune.trained.inputs import SIZE, Inputs


@dataclass(frozen=True)
class Cost:
    """Measured cost of one variant.

    Attributes:
        variant: Variant that was measured.
        latency: Latency of one call, by batch size.
        difference: Largest absolute difference, on random inputs, between the logits of this variant and those of
            torch's own layers with the network's weights. None for a "dense" variant in which small random weights
            replace zeros.
    """

    variant: Variant
    latency: Mapping[int, Latency]
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """Costs of one or more networks and their variants, all measured in one process.

    Attributes:
        costs: Cost of each variant. All speeds are relative to the first variant.
        inputs: Inputs of the networks.
        threads: Number of CPU threads of torch and of ONNX Runtime.
        machine: Processor, its instruction set, and the versions of Python and torch, by name.
        sparsity: Fraction of weights that are zero, by network.
    """

    costs: tuple[Cost, ...]
    inputs: Inputs
    threads: int
    machine: Mapping[str, str]
    sparsity: Mapping[str, float]

    @property
    def batches(self) -> tuple[int, ...]:
        """Batch sizes."""
        return tuple(self.costs[0].latency)

    @property
    def rounds(self) -> int:
        """Number of rounds."""
        return len(self.costs[0].latency[self.batches[0]].seconds)

    def find(self, network: str, *kinds: Kind) -> Cost | None:
        """Return the cost of one variant of a network: the first of `kinds` that was measured, or None."""
        costs = {cost.variant.kind: cost for cost in self.costs if cost.variant.network == network}
        return next((costs[kind] for kind in kinds if kind in costs), None)

    def speed(self, cost: Cost, batch: int) -> float:
        """Return the speed of a variant relative to the first of all variants: 2.0 is twice as fast."""
        return self.costs[0].latency[batch].ratio(cost.latency[batch])


def describe_machine() -> dict[str, str]:
    """Return the processor, its instruction set, and the versions of Python and torch."""
    return {
        "processor": platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def check_measuring(input_size: int | list[int] | None, batches: Sequence[int], rounds: int) -> None:
    """Raise an `InputError` if one of these arguments of `compare` is invalid."""
    if input_size is not None:
        for size in input_size if isinstance(input_size, list) else [input_size]:
            check_integer("input_size", size, 1, hint="images of CIFAR-10 have 32 pixels a side")
    if not batches or min(batches) < 1 or len(set(batches)) < len(batches):
        raise expected("`batches` to be different positive integers", str(list(batches)), "for example [1,128]")
    check_integer("rounds", rounds, 1, hint="11 rounds give a stable median on most machines")


def compare(
    networks: Mapping[str, nn.Module],
    input_size: int | list[int] | None,
    batches: Sequence[int],
    rounds: int,
    onnx: bool = True,
    turn: float = 0.1,
) -> Comparison:
    """Measure every variant of every network, with torch's current number of threads.

    The networks must be modules without masks that compute one tensor of logits from the same inputs: from images of
    `input_size` pixels a side, from inputs of that shape or, without `input_size`, from inputs like the
    `example_input_array` of the first network, or 32x32 images if it has none. They are not changed.
    `lit_prune.trained.cost.latency.measure` explains `rounds` and `turn`.

    Raises:
        InputError: If an argument is invalid, or a network cannot process such inputs.
    """
    check_measuring(input_size, batches, rounds)
    first = next(iter(networks.values()))
    if isinstance(input_size, int) or getattr(first, "example_input_array", None) is None:
        input_shape(first, input_size or SIZE)  # for its errors: lazy weights, or a network that takes no images
    inputs = Inputs.of(first, input_size)
    if not inputs.have_rows:
        what = "the tensors of `example_input_array` to have the same number of rows, at least one"
        raise expected(what, f"{inputs}", "make the batch the first dimension of each tensor")
    for model in networks.values():
        inputs.check_accepted_by(model)
    with tempfile.TemporaryDirectory() as folder:
        variants = [
            variant
            for number, (name, model) in enumerate(networks.items())
            for variant in make_variants(
                name,
                model,
                inputs,
                Path(folder) if onnx else None,
                reference=number == 0,
                batches=batches,
                rounds=rounds,
            )
        ]
        latencies = []
        with torch.inference_mode():
            for batch in batches:
                tensors, _ = next(inputs.random(batch))
                # `layout` is torch's default except for images
                arguments = [[tensor.contiguous(memory_format=v.layout) for tensor in tensors] for v in variants]
                calls = {str(n): partial(v.forward, *arguments[n]) for n, v in enumerate(variants)}
                latencies.append(list(measure(calls, rounds, turn).values()))
            logits = [variant.forward(*args) for variant, args in zip(variants, arguments, strict=True)]
    # logits of each network's own weights: "dense" has others if there are zeros, but "zeros" then replaces it
    references = {v.network: y for v, y in zip(variants, logits, strict=True) if v.kind in ("dense", "zeros")}
    costs = []
    for variant, latency, found in zip(variants, zip(*latencies, strict=True), logits, strict=True):
        reference = references[variant.network]
        another = variant.kind == "dense" and found is not reference
        difference = None if another else float((found - reference).abs().max())
        costs.append(Cost(variant, dict(zip(batches, latency, strict=True)), difference))
    sparsity = {name: sparsity_report(weight_layers(model)).sparsity for name, model in networks.items()}
    return Comparison(tuple(costs), inputs, torch.get_num_threads(), describe_machine(), sparsity)
