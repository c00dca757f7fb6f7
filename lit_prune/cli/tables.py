"""Format tables as aligned text and as CSV, and numbers with nouns."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """Format a table with the first column aligned left and the others right; `total` becomes its last row."""
    lines = [head, *rows, *([total] if total is not None else [])]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    text = [
        "  ".join([line[0].ljust(widths[0]), *(cell.rjust(w) for cell, w in zip(line[1:], widths[1:], strict=True))])
        for line in lines
    ]
    rule = "-" * len(text[0])
    if total is not None:
        text.insert(-1, rule)
    return "\n".join([text[0], rule, *text[1:]])


def csv_text(records: Sequence[Mapping[str, Any]]) -> str:
    """Format one or more records, all with the same columns, as CSV. None becomes an empty cell."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().removesuffix("\n")


def pluralize(number: int, noun: str) -> str:
    """Return a number with a noun, in the plural unless the number is 1."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
