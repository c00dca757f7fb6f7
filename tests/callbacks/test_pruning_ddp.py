"""Processes that see different data prune the same weights."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]


def train(folder: Path, *ckpt_path: Path) -> list[list[dict[str, object]]]:
    folder.mkdir()
    command = [sys.executable, "-m", "tests.callbacks.ddp_pruning", str(folder), *map(str, ckpt_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr
    epochs = sorted({int(file.name[5]) for file in folder.glob("epoch*")})
    return [[torch.load(folder / f"epoch{epoch}-rank{rank}.pt") for rank in range(2)] for epoch in epochs]


def test_replicas_stay_bit_identical_and_masks_equal(tmp_path: Path) -> None:
    epochs = train(tmp_path / "whole")
    # convolutions have 594 weights, the head 32: pruned by two callbacks, one gradual; all is removed at epoch 3
    for (ours, theirs), zeros in zip(epochs, (0, round(0.525 * 594) + 16, round(0.6 * 594) + 16, None), strict=True):
        for kind in ("parameters", "masks"):
            assert ours[kind].keys() == theirs[kind].keys()  # type: ignore[attr-defined]
            for name, tensor in ours[kind].items():  # type: ignore[attr-defined]
                assert torch.equal(tensor, theirs[kind][name])  # type: ignore[index]
        assert ours["sparsity"] == theirs["sparsity"]
        if zeros is None:
            assert not ours["masks"]
        else:
            assert ours["sparsity"] == pytest.approx(zeros / 626)
