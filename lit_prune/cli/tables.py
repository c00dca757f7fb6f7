"""Tables for a terminal and for a spreadsheet."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any


def table(head: Sequence[str], rows: Sequence[Sequence[str]], total: Sequence[str] | None = None) -> str:
    """Align the cells of a table: the first column to the left, the others to the right.

    Args:
        head: Names of the columns.
        rows: Cells, one in each row for each column.
        total: Last row, set off by a rule.

    Returns:
        The lines, with a rule below the head.
    """
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
    """Write records as CSV, one line each below the names of their columns. None becomes an empty cell.

    Args:
        records: Values by column, at least one record, all with the same columns.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(records[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue().removesuffix("\n")
