"""Keep the sentences of the project plain: `python tests/test_wording.py PATH...` lists phrases to replace."""

import json
import re
import sys
from bisect import bisect
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("lit_prune", "README.md", "CONTRIBUTING.md", "SECURITY.md", "docs", "examples", "scripts")

# what to look for, and what to write instead
INSTEAD = {
    r"\b(go|goes|gone|going|went) on\b": "resume, continue",
    r"\b(come|comes|came) to (its|an|their) end\b|\b(has|have|had) (come to|ended)\b": "finish",
    r"\b(a|the) rise\b": "ramp, schedule",
    r"\b(come|comes|came|take|takes|took|taken|taking)( \w+){0,2} off\b": "remove",
    r"\b(take|takes|took|taken|taking)( \w+){0,2} away\b": "remove",
    r"\bwhat one does\b": "working with",
    r"\bsomebody\b|\bsomeone else\b|\bstrangers?\b": "custom, third-party, your own, the user",
    r"\bwhole numbers?\b|\bfrom [01] on\b": "integer, positive integer, non-negative integer",
    r"(?<!there )\b(is|are|was|were) no (?!longer\b|more\b)": "is not a, is NaN",
    r"\bin silence\b|\bby (itself|themselves)\b": "silently, automatically",
    r"\bfor want of\b|\bwhereof\b": "for lack of, of which",
    r"\bbeside\b": "next to, with, besides",
    r"\bshall\b": "must, will",
    r"(?<!py\.)\btyped\b": "given",
    r"\bwhoever\b|\bnobody\b|\b(for|to|by|from) who\b": "the user, the caller, no one",
    r"\bpass(es|ed|ing)? over\b": "skip",
    r"\bmoved there\b": "renamed",
    r"\bless that of\b": "minus",
    r"\bseed (study|network|repository)\b|--config seed\b|--preset seed\b": "the original study",
    r"\btaps? (that|which) sees?\b": "dead taps",
    r"\banew\b": "again, from the start",
    r"\bwhat (is|was) pruned\b": "the pruned weights",
    r"\bperhaps\b": "maybe, or leave it out",
}


def findings(path: Path) -> Iterator[tuple[int, str, str]]:
    """Find the phrases in a file: the number of the line, the phrase, and what to write instead."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        text = "".join("".join(cell["source"]) + "\n" for cell in json.loads(text)["cells"])
    lines = text.splitlines()
    # a phrase may continue on the next line, also in a comment, so all lines are joined
    flowing = " ".join(line.strip().removeprefix("# ") for line in lines)
    starts = list(accumulate((len(line.strip().removeprefix("# ")) + 1 for line in lines), initial=0))
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(pattern, flowing, re.IGNORECASE):
            yield bisect(starts, match.start()), match[0], instead


def files(places: list[Path]) -> list[Path]:
    kinds = {".py", ".md", ".yaml", ".ipynb"}
    return [
        f for place in places for f in ([place] if place.is_file() else sorted(place.rglob("*"))) if f.suffix in kinds
    ]


def complaints(places: list[Path]) -> list[str]:
    return [
        f"{path}:{line}: {phrase!r}: {instead}" for path in files(places) for line, phrase, instead in findings(path)
    ]


def test_the_project_uses_plain_words():
    assert complaints([ROOT / place for place in PLACES]) == []


@pytest.mark.parametrize("text", ["It goes\n# on.", "as typed", "The loss is no number.", "Nobody reads it."])
def test_a_planted_phrase_is_found(tmp_path, text):
    (tmp_path / "planted.py").write_text(text, encoding="utf-8")
    assert len(complaints([tmp_path])) == 1


@pytest.mark.parametrize("text", ["There is no file.", "It continues.", "py.typed", "is no longer there"])
def test_plain_text_is_fine(tmp_path, text):
    (tmp_path / "planted.py").write_text(text, encoding="utf-8")
    assert complaints([tmp_path]) == []


if __name__ == "__main__":
    print("\n".join(complaints([Path(argument) for argument in sys.argv[1:]])))  # noqa: T201
