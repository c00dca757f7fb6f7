"""Save measured scores in a file, from which an interrupted command continues."""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lit_prune.errors import InputError, expected, shorten
from lit_prune.files.atomic import append, write_text
from lit_prune.trained.scoring import Score

_FORMAT = 2
_MAX_BYTES = 64 * 2**20  # over 800,000 measurements, of about 80 bytes each
_HINT = "give another `--output`, or remove that file"


def fingerprint(named: Iterable[tuple[str, Tensor]]) -> str:
    """Return the SHA-256 of the names, types, shapes and values of tensors."""
    digest = hashlib.sha256()
    for name, tensor in named:
        digest.update(f"{name}\0{tensor.dtype}\0{list(tensor.shape)}\0".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


class Measurements:
    """Scores by layer and amount, which `add` immediately writes to a file, each as a line of JSON.

    Args:
        path: JSON Lines file, whose first line holds the conditions.
        conditions: What scores depend on, by name, such as "network" and "split": texts or fingerprints.

    Attributes:
        path: The file.

    Raises:
        InputError: If the file holds something else, or scores that were measured under other conditions.
        OSError: If the file cannot be read or written.
    """

    def __init__(self, path: Path, conditions: Mapping[str, str]) -> None:
        self.path = path
        self._header = {"lit_prune_sensitivity": _FORMAT, **conditions}
        self._scores: dict[tuple[str | None, float], Score] = {}
        lines, incomplete = _read_lines(path) if path.exists() else ([], False)
        self._has_header = bool(lines)
        if lines:
            header = lines[0]
            if not isinstance(header, dict) or header.get("lit_prune_sensitivity") != _FORMAT:
                raise _not_scores(path)
            for key, value in self._header.items():
                if header.get(key) != value:
                    what = f"the scores in `{path}` to be measured with the same {key} as in this command"
                    raise expected(what, "scores of another measurement", _HINT)
        for line in lines[1:]:
            try:
                score = Score(line["right"] + 0, int(line["images"]), line.get("metric"))
                self._scores[line["layer"], float(line["amount"])] = score
            except (KeyError, TypeError, ValueError) as error:
                raise _not_scores(path, f"the line {shorten(json.dumps(line))}") from error
        if incomplete:  # a power failure may have left a part of the last line
            write_text(path, "".join(f"{json.dumps(line)}\n" for line in lines))

    def get(self, layer: str | None, amount: float) -> Score | None:
        """Return the score with `layer` (None: no layer) pruned to `amount`, or None if it was not measured."""
        return self._scores.get((layer, amount))

    def add(self, layer: str | None, amount: float, score: Score) -> None:
        """Add a score, and write it to the file."""
        if not self._has_header:
            write_text(self.path, json.dumps(self._header) + "\n")
            self._has_header = True
        line = {"layer": layer, "amount": amount, "right": score.right, "images": score.images}
        if score.metric is not None:
            line["metric"] = score.metric
        append(self.path, (json.dumps(line) + "\n").encode())
        self._scores[layer, amount] = score


def _read_lines(path: Path) -> tuple[list[Any], bool]:
    """Read all complete lines; also return whether an incomplete one follows."""
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    complete = content.rfind(b"\n") + 1
    try:
        if len(content) > _MAX_BYTES:
            raise ValueError("too long")
        lines = [json.loads(line) for line in content[:complete].decode().splitlines()]
    except (ValueError, RecursionError) as error:
        raise _not_scores(path) from error
    if content and not lines:
        raise _not_scores(path)
    return lines, complete < len(content)


def _not_scores(path: Path, found: str = "something else") -> InputError:
    return expected(f"measurements of `lit-prune sensitivity` in `{path}`", found, _HINT)
