"""Format measured costs as a table with conclusions, and as JSON."""

import json
from collections.abc import Mapping

from lit_prune.cli.tables import pluralize, table
from lit_prune.trained.cost.latency import Latency
from lit_prune.trained.cost.measure import Comparison, Cost
from lit_prune.trained.cost.variants import MEANINGS, Kind, Variant
from lit_prune.trained.scoring import Score


def format_table(comparison: Comparison, scores: Mapping[str, Score]) -> str:
    """Make tables of sizes and times, with explanations and conclusions; `scores` holds accuracies by network name."""
    sizes, times = [], []
    for cost in comparison.costs:
        variant = cost.variant
        # "dense" with random weights and "int8" compute other outputs than the network
        score = None if cost.difference is None or variant.kind == "int8" else scores.get(variant.network)
        sizes.append(
            [
                variant.network,
                variant.kind,
                *([f"{score.accuracy:.4f}" if score else ""] if scores else []),
                f"{variant.parameters:,}",
                f"{variant.nonzero:,}",
                *(f"{count / 1e6:.1f}" if count is not None else "?" for count in _flops(variant)),
                f"{variant.bytes:,}",
                "" if variant.compressed is None else f"{variant.compressed:,}",
            ]
        )
        cells = [(_milliseconds(cost.latency[b]), f"{comparison.speed(cost, b):.2f}") for b in comparison.batches]
        times.append([variant.network, variant.kind, *sum(cells, ())])
    head = ["network", "run as", *(["accuracy"] if scores else [])]
    head += ["parameters", "nonzero", "MFLOPs", "nonzero", "bytes", "compressed"]
    columns = [(f"batch {batch}: ms (lowest to highest)", "speed") for batch in comparison.batches]
    reference, machine = comparison.costs[0].variant, comparison.machine
    counted = all(cost.variant.flops is not None for cost in comparison.costs)
    unknown = "" if counted else "; `?` if some layers, such as LSTMs and attention, cannot be counted"
    meanings = {cost.variant.kind: MEANINGS[cost.variant.kind] for cost in comparison.costs}
    return "\n".join(
        [
            table(head, sizes),
            "",
            table(["network", "run as", *sum(columns, ())], times),
            "",
            *(f"{kind:12s}  {meaning}" for kind, meaning in meanings.items()),
            "",
            f"One input: {comparison.inputs}. A multiply-add is 2 FLOPs{unknown}. "
            f"Times: medians of {pluralize(comparison.rounds, 'round')} with "
            f"{pluralize(comparison.threads, 'thread')} on {machine['processor']} ({machine['instructions']}), "
            f"Python {machine['python']}, torch "
            f"{machine['torch']}. Speed: relative to {reference.network}, run as {reference.kind}.",
            "",
            *conclusions(comparison),
        ]
    )


def conclusions(comparison: Comparison) -> list[str]:
    """Return sentences that compare the first network with its variants, and with the other networks."""
    network = comparison.costs[0].variant.network
    sentences = []
    zeros = comparison.find(network, "zeros")
    if zeros is not None:
        sentences.append(
            "Zeros make files smaller (with `lit-prune export --compress`), but dense layers no faster. Compared with "
            f"a copy without zeros, {network} with {comparison.sparsity[network]:.1%} zero weights takes "
            f"{_durations(comparison, zeros)} times as long."
        )
    ways: dict[Kind, str] = {
        "cropped": "without kernel positions that only ever see padding",
        "accelerated": "accelerated",
        "int8": "in 8 bits",
        "onnx": "in ONNX Runtime",
        "cropped onnx": "without these kernel positions, in ONNX Runtime",
    }
    faster = [(way, cost) for kind, way in ways.items() if (cost := comparison.find(network, kind)) is not None]
    for other in comparison.sparsity:
        cost = comparison.find(other, "zeros", "dense")
        if other != network and cost is not None:
            faster.append((f"{other} in torch", cost))
    speeds = "; ".join(
        f"{way} {format_ratios({batch: comparison.speed(cost, batch) for batch in comparison.batches})}"
        for way, cost in faster
    )
    return sentences + ([f"Speed relative to {network}, run as dense: {speeds}."] if faster else [])


def format_json(comparison: Comparison, scores: Mapping[str, Score]) -> str:
    """Make JSON: seconds, bytes, counts, and speeds relative to the first variant; for `scores` see `format_table`."""
    content = {
        "inputs": comparison.inputs.describe(),
        "threads": comparison.threads,
        "machine": dict(comparison.machine),
        "sparsity": dict(comparison.sparsity),
        "accuracy": {name: score.accuracy for name, score in scores.items()},
        "costs": [
            {
                "network": cost.variant.network,
                "kind": cost.variant.kind,
                "parameters": cost.variant.parameters,
                "nonzero_parameters": cost.variant.nonzero,
                **dict(zip(("flops", "nonzero_flops"), _flops(cost.variant), strict=True)),
                "bytes": cost.variant.bytes,
                "compressed_bytes": cost.variant.compressed,
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
            for cost in comparison.costs
        ],
        "conclusions": conclusions(comparison),
    }
    return json.dumps(content, indent=2)


def format_ratios(ratios: Mapping[int, float]) -> str:
    """Format ratios by batch size: "1.20 (batch 1) and 1.50 (batch 128)"."""
    return " and ".join(f"{ratio:.2f} (batch {batch})" for batch, ratio in ratios.items())


def _flops(variant: Variant) -> tuple[int | None, int | None]:
    """Return the FLOPs of all weights, and of the non-zero ones."""
    return (None, None) if variant.flops is None else (variant.flops.nominal, variant.flops.nonzero)


def _milliseconds(latency: Latency) -> str:
    digits = 2 if latency.median < 0.1 else 1
    low, middle, high = (f"{1000 * value:.{digits}f}" for value in (latency.low, latency.median, latency.high))
    return f"{middle} ({low} to {high})"


def _durations(comparison: Comparison, cost: Cost) -> str:
    reference = comparison.costs[0].latency
    return format_ratios({batch: cost.latency[batch].ratio(reference[batch]) for batch in comparison.batches})
