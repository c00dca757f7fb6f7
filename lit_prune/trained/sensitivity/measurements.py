"""Scores that have been measured, in a file that a later run goes on from."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_prune.errors import InputError, expected
from lit_prune.files.atomic import append, write_text
from lit_prune.trained.scoring import Score

__all__ = ["Measurements", "fingerprint"]

_FORMAT = 1
_BIGGEST = 64 * 2**20  # bytes; a line has about 80
_HINT = "give another `--output`, or remove that file"
# what a file must agree on with the run that goes on from it, and how to say so
_PARTS = {
    "network": ("of this network", "of another one"),
    "weights": ("of these weights", "of others"),
    "split": ("on this split of the data", "on another one"),
    "images": ("on these images", "on others"),
}


def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 of tensors: of their names, types, shapes and values."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Measurements:
    """Scores by layer and amount, each in a line of its own, written as soon as it is known.

    Args:
        path: A file in JSON lines: the first says of what the scores are.
        about: What they are of, by "network", "weights", "split" and "images"; a file with scores of anything else is
            refused.

    Attributes:
        path: The file.

    Raises:
        InputError: If the file holds something else.
        OSError: If it cannot be read or written.
    """

    def __init__(self, path: Path, about: Mapping[str, str]) -> None:
        self.path = path
        self._about = {"lit_prune_sensitivity": _FORMAT, **about}
        self._scores: dict[tuple[str | None, float], Score] = {}
        lines = _lines(path) if path.exists() else []
        if lines:
            self._check(lines[0])
            for line in lines[1:]:
                self._take(line)
        self._begun = bool(lines)

    def __len__(self) -> int:
        return len(self._scores)

    def get(self, layer: str | None, amount: float) -> Score | None:
        """Return the score with a layer pruned to an amount, if it is known; layer None is the whole network."""
        return self._scores.get((layer, amount))

    def add(self, layer: str | None, amount: float, score: Score) -> None:
        """Keep a score.

        Raises:
            OSError: If it cannot be written.
        """
        if not self._begun:
            write_text(self.path, json.dumps(self._about) + "\n")
            self._begun = True
        line = {"layer": layer, "amount": amount, "right": score.right, "images": score.images}
        append(self.path, (json.dumps(line) + "\n").encode())
        self._scores[layer, amount] = score

    def _check(self, first: Any) -> None:
        if not isinstance(first, dict) or first.get("lit_prune_sensitivity") != _FORMAT:
            raise _strange(self.path)
        for key, (mine, other) in _PARTS.items():
            if first.get(key) != self._about[key]:
                raise expected(f"scores {mine} in `{self.path}`", f"scores {other}", _HINT)

    def _take(self, line: Any) -> None:
        try:
            score = Score(int(line["right"]), int(line["images"]))
            self._scores[line["layer"], float(line["amount"])] = score
        except (KeyError, TypeError, ValueError) as error:
            raise _strange(self.path, f"a line that is none: {json.dumps(line)[:60]}") from error


def _lines(path: Path) -> list[Any]:
    """Read whole lines; one that was cut off by the loss of power is measured again."""
    with path.open("rb") as file:
        content = file.read(_BIGGEST + 1)
    whole = content.rfind(b"\n") + 1
    try:
        if len(content) > _BIGGEST:
            raise ValueError("too long")
        lines = [json.loads(line) for line in content[:whole].decode().splitlines()]
    except (ValueError, RecursionError) as error:
        raise _strange(path) from error
    if content and not lines:
        raise _strange(path)
    if whole < len(content):
        write_text(path, content[:whole].decode())
    return lines


def _strange(path: Path, found: str = "something else") -> InputError:
    return expected(f"scores of `lit-prune sensitivity` in `{path}`", found, _HINT)
