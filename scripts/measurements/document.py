"""Tables in Markdown, written between two marks of a document."""

from collections.abc import Sequence
from pathlib import Path

from lit_prune.errors import expected


def split_document(path: Path, start: str, end: str) -> tuple[str, str]:
    """Return the text of a document before and after two marks, with the marks.

    Raises:
        InputError: If the document does not exist or lacks a mark.
    """
    before, found, rest = path.read_text(encoding="utf-8").partition(start) if path.is_file() else ("", "", "")
    _, closing, after = rest.partition(end)
    if not found or not closing:
        raise expected(f"`--write` to name a document with the lines `{start}` and `{end}`", f"`{path}`", "add them")
    return before + start, end + after


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table whose first column is aligned to the left and all others to the right."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
