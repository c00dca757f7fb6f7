"""Format sensitivity results as a table with suggested limits, as JSON and as CSV."""

import json

from lit_prune.cli.tables import csv_text, table
from lit_prune.trained.sensitivity.result import Sensitivity


def format_table(result: Sensitivity, tolerance: float) -> str:
    """Make a table for a terminal, with changes in percentage points and the suggested limits below."""
    head = ["layer", "weights", *(f"{100 * amount:g}%" for amount in result.amounts), "safe"]
    rows = [
        [
            name,
            f"{size:,}",
            *(f"{change:+.1f}" for change in result.changes(name)),
            f"{result.safe(name, tolerance):g}",
        ]
        for name, size in result.sizes.items()
    ]
    base = result.base
    one = "" if base.metric else f"One image more or less changes accuracy by {100 / base.images:.2g} points. "
    return "\n".join(
        [
            f"{result.path}: {base.accuracy:.2%} {base.describe(result.split)}.",
            f"Change in {base.metric or 'accuracy'}, in percentage points, when one layer alone is pruned by "
            f"{result.criterion} to:",
            "",
            table(head, rows),
            "",
            f"safe: the largest of these sparsities that costs at most {format_points(tolerance)} (`--tolerance`),",
            f"according to the decreasing curve that best fits the changes. {one}Pruning several layers together costs "
            "more than pruning one of them.",
            *_format_limits(result, tolerance),
        ]
    )


def format_json(result: Sensitivity, tolerance: float) -> str:
    """Make JSON; accuracies and sparsities are fractions."""
    content = {
        "path": result.path,
        "split": result.split,
        "images": result.base.images,
        "accuracy": result.base.accuracy,
        "metric": result.base.metric or "accuracy",
        "criterion": result.criterion,
        "tolerance_points": tolerance,
        "amounts": list(result.amounts),
        "layers": [
            {
                "layer": name,
                "weights": size,
                "accuracy": [score.accuracy for score in result.scores[name]],
                "max_layer_sparsity": result.safe(name, tolerance),
            }
            for name, size in result.sizes.items()
        ],
        "suggestions": [limit._asdict() for limit in result.limits(tolerance)],
    }
    return json.dumps(content, indent=2)


def format_csv(result: Sensitivity, tolerance: float) -> str:
    """Make CSV, with one line for each layer and amount; accuracies are fractions."""
    return csv_text(
        [
            {
                "layer": name,
                "weights": size,
                "amount": amount,
                "accuracy": score.accuracy,
                "change_points": round(change, 6),
                "max_layer_sparsity": result.safe(name, tolerance),
            }
            for name, size in result.sizes.items()
            for amount, score, change in zip(result.amounts, result.scores[name], result.changes(name), strict=True)
        ]
    )


def format_points(tolerance: float) -> str:
    """Format percentage points: "1 point", "0.5 points"."""
    return f"{tolerance:g} point{'' if tolerance == 1 else 's'}"


def _format_limits(result: Sensitivity, tolerance: float) -> list[str]:
    lines = []
    for limit in result.limits(tolerance):
        advice = f"max_layer_sparsity={limit.max_layer_sparsity:g}"
        reason = f"the lowest safe sparsity, that of `{limit.set_by}`"
        if limit.max_layer_sparsity == max(result.amounts):
            reason = "the largest of these amounts, which is safe for every layer"
        elif not limit.max_layer_sparsity:
            smallest = min(amount for amount in result.amounts if amount)
            advice = "no pruning"
            reason = f"because even {100 * smallest:g}% of `{limit.set_by}` cost more than {format_points(tolerance)}"
        if not limit.exclude:
            lines.append(f"Suggestion for global pruning of all these layers: {advice}, {reason}.")
        else:
            lines.append(f"If the most sensitive layers, with {limit.share:.1%} of the weights, are excluded: {advice}")
            lines.append(f"  exclude={json.dumps(limit.exclude)}")
    return lines
