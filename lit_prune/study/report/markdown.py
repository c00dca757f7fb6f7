"""Markdown that is readable as text, too."""

from collections.abc import Sequence
from urllib.parse import quote

__all__ = ["image", "table"]


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Lay out a table.

    Args:
        header: Titles of the columns.
        rows: Cells; an empty one is shown as it is.
        left: How many columns, from the first on, are text. The others are numbers, aligned to the right.
    """
    lines = [[_cell(text) for text in row] for row in (header, *rows)]
    widths = [max(3, *(len(line[i]) for line in lines)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [c.ljust(w) if i < left else c.rjust(w) for i, (c, w) in enumerate(zip(cells, widths, strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = [("-" * w if i < left else "-" * (w - 1) + ":") for i, w in enumerate(widths)]
    return "\n".join([line(lines[0]), line(rule), *(line(cells) for cells in lines[1:])])


def image(alt: str, path: str) -> str:
    """Show a picture.

    Args:
        alt: What it shows, for those who do not see it.
        path: Where it is, relative to the document, with forward slashes.
    """
    return f"![{' '.join(alt.split()).replace('[', '(').replace(']', ')')}]({quote(path)})"


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
