"""Find the place of generated tables in a document."""

from pathlib import Path

from lit_prune.errors import expected


def split_document(path: Path, start: str, end: str) -> tuple[str, str]:
    """Return the text of a document before and after its tables, with the two lines that enclose them.

    Raises:
        InputError: If the document does not exist or lacks the lines.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    before, found, rest = text.partition(start)
    _, ends, after = rest.partition(end)
    if not found or not ends:
        raise expected(f"`--write` to name a document with the lines `{start}` and `{end}`", f"`{path}`", "add them")
    return before + start, end + after
