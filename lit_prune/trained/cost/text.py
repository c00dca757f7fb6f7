"""What was measured of costs, as a person or a program reads it."""

import json
from collections.abc import Mapping
from typing import Any

from lit_prune.cli.tables import table
from lit_prune.trained.cost.latency import Latency
from lit_prune.trained.cost.measure import Comparison, Cost
from lit_prune.trained.cost.variants import MEANINGS, Kind
from lit_prune.trained.scoring import Score

__all__ = ["as_json", "as_table", "conclusions"]


def as_table(comparison: Comparison, scores: Mapping[str, Score]) -> str:
    """Write costs as a table, with what its names mean, and what follows from it.

    Args:
        comparison: What was measured.
        scores: Of the networks, as far as they were scored.
    """
    sizes, times = [], []
    for cost in comparison.costs:
        variant, score = cost.variant, scores.get(cost.variant.network)
        known = score is not None and cost.difference is not None
        sizes.append(
            [
                variant.network,
                variant.kind,
                *([f"{score.accuracy:.4f}" if known and score else ""] if scores else []),
                f"{variant.parameters:,}",
                f"{variant.nonzero:,}",
                f"{variant.flops.nominal / 1e6:.1f}",
                f"{variant.flops.nonzero / 1e6:.1f}",
                f"{variant.bytes:,}",
                "" if variant.compressed is None else f"{variant.compressed:,}",
            ]
        )
        shown = [(_milliseconds(cost.latency[b]), f"{comparison.speed(cost, b):.2f}") for b in comparison.batches]
        times.append([variant.network, variant.kind, *(cell for cells in shown for cell in cells)])
    head = ["network", "run as", *(["accuracy"] if scores else [])]
    head += ["parameters", "nonzero", "MFLOPs", "nonzero", "bytes", "compressed"]
    columns = [(f"batch {batch}: ms (lowest to highest)", "speed") for batch in comparison.batches]
    first, machine = comparison.costs[0], comparison.machine
    meanings = {cost.variant.kind: MEANINGS[cost.variant.kind] for cost in comparison.costs}
    rounds = len(first.latency[comparison.batches[0]].seconds)
    return "\n".join(
        [
            table(head, sizes),
            "",
            table(["network", "run as", *(name for names in columns for name in names)], times),
            "",
            *(f"{kind:12s}  {meaning}" for kind, meaning in meanings.items()),
            "",
            f"Images of {comparison.input_size}x{comparison.input_size}; a multiply-add is 2 FLOPs. "
            f"{_count(rounds, 'round')} of turns with {_count(comparison.threads, 'thread')} on {machine['processor']} "
            f"({machine['instructions']}), Python {machine['python']}, torch {machine['torch']}. "
            f"Speed: times as fast as {first.variant.network}, {first.variant.kind}; the median of the rounds.",
            "",
            *conclusions(comparison),
        ]
    )


def conclusions(comparison: Comparison) -> list[str]:
    """Say in sentences what was measured: that zeros alone make nothing faster, and what does.

    Args:
        comparison: What was measured.
    """
    network = comparison.costs[0].variant.network
    sentences = []
    zeros, masked = comparison.find(network, "zeros"), comparison.find(network, "masked")
    if zeros is not None and masked is not None:
        sentences.append(
            f"Unstructured zeros do not speed up dense kernels: with {comparison.zeros[network]:.1%} of its weights "
            f"zero, {network} takes {_longer(comparison, zeros)} times as long as without zeros, and "
            f"{_longer(comparison, masked)} times as long while it is masked."
        )
    ways: dict[Kind, str] = {
        "cropped": "without the taps that see padding alone (the same outputs)",
        "onnx": "in ONNX Runtime",
        "cropped onnx": "both",
    }
    found = [(how, cost) for kind, how in ways.items() if (cost := comparison.find(network, kind)) is not None]
    for other in comparison.zeros:
        whole = comparison.find(other, "zeros") or comparison.find(other, "dense")
        if other != network and whole is not None:
            found.append((f"{other} in torch", whole))
    said = "; ".join(f"{how} {_faster(comparison, cost)}" for how, cost in found)
    return [*sentences, f"Times as fast as {network} of torch's own layers: {said}."]


def as_json(comparison: Comparison, scores: Mapping[str, Score]) -> str:
    """Write costs as JSON: seconds, bytes, counts, and ratios to the first variant.

    Args:
        comparison: What was measured.
        scores: Of the networks, as far as they were scored.
    """
    content = {
        "input_size": comparison.input_size,
        "threads": comparison.threads,
        "machine": dict(comparison.machine),
        "sparsity": dict(comparison.zeros),
        "accuracy": {name: score.accuracy for name, score in scores.items()},
        "costs": [_as_dict(comparison, cost) for cost in comparison.costs],
        "conclusions": conclusions(comparison),
    }
    return json.dumps(content, indent=2)


def _as_dict(comparison: Comparison, cost: Cost) -> dict[str, Any]:
    variant = cost.variant
    return {
        "network": variant.network,
        "kind": variant.kind,
        "parameters": variant.parameters,
        "nonzero_parameters": variant.nonzero,
        "flops": variant.flops.nominal,
        "nonzero_flops": variant.flops.nonzero,
        "bytes": variant.bytes,
        "compressed_bytes": variant.compressed,
        "largest_difference": cost.difference,
        "latency": {
            str(batch): {
                "median": latency.median,
                "low": latency.low,
                "high": latency.high,
                "rounds": list(latency.seconds),
                "speed": comparison.speed(cost, batch),
            }
            for batch, latency in cost.latency.items()
        },
    }


def _milliseconds(latency: Latency) -> str:
    digits = 2 if latency.median < 0.1 else 1
    low, middle, high = (f"{1000 * value:.{digits}f}" for value in (latency.low, latency.median, latency.high))
    return f"{middle} ({low} to {high})"


def _longer(comparison: Comparison, cost: Cost) -> str:
    first = comparison.costs[0]
    return _by_batch({batch: cost.latency[batch].over(first.latency[batch]) for batch in comparison.batches})


def _faster(comparison: Comparison, cost: Cost) -> str:
    return _by_batch({batch: comparison.speed(cost, batch) for batch in comparison.batches})


def _by_batch(ratios: Mapping[int, float]) -> str:
    return " and ".join(f"{ratio:.2f} (batch {batch})" for batch, ratio in ratios.items())


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
