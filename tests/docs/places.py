"""Which documents there are, and the repository that they belong to."""

from pathlib import Path

from tests.docs.blocks import Block, blocks_of

__all__ = ["BLOCKS", "DOCUMENTS", "ROOT"]

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCKS: list[Block] = [block for path in DOCUMENTS for block in blocks_of(path, path.relative_to(ROOT).as_posix())]
