"""Runs that are killed at random moments finish with identical results; the script notices each kind of difference."""

import re
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from crash_test import differences
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.event_file_writer import EventFileWriter

from lit_prune.files.checkpoint import read_checkpoint
from tests.training.test_resuming import whole as whole  # the fixture

SCRIPT = Path(__file__).parents[1] / "scripts" / "crash_test.py"


def crash(kills: int, *options: str) -> str:
    seed = secrets.randbelow(1_000_000)
    argv = [sys.executable, str(SCRIPT), "--kills", str(kills), "--seed", str(seed), *options]
    answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=1800)
    assert answer.returncode == 0, f"seed {seed}: {answer.stdout}{answer.stderr}"
    return answer.stdout


def check(printed: str, kills: int) -> None:
    assert len(re.findall(r"^kill +\d+ \(run \d+\): ", printed, re.MULTILINE)) == kills
    last = printed.splitlines()[-1]
    match = re.fullmatch(rf"{kills} kills; (\d+) of (\d+) runs identical to the uninterrupted one", last)
    assert match
    assert match[1] == match[2] != "0"


@pytest.mark.gate
def test_a_kill_changes_no_bit():
    check(crash(1, "--narrow"), 1)


@pytest.mark.slow
def test_three_kills_change_no_bit():
    check(crash(3), 3)


@pytest.mark.slow
def test_twenty_five_kills_change_no_bit():
    check(crash(25), 25)


@pytest.mark.slow
@pytest.mark.parametrize("kills", [3, 25])
def test_kills_change_no_bit_of_a_run_whose_masks_change(kills):
    check(crash(kills, "--callbacks", "rigl"), kills)


@pytest.fixture
def twin(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "twin"))


def test_a_run_does_not_differ_from_its_copy(whole, twin):
    assert list(differences(whole, twin)) == []


@pytest.mark.parametrize(("key", "found"), [("state_dict", "weights"), ("optimizer_states", "optimizer")])
def test_one_bit_of_a_tensor_is_a_difference(whole, twin, key, found):
    content = read_checkpoint(twin / "checkpoints" / "last.ckpt")
    tensors = content[key] if key == "state_dict" else content[key][0]["state"][0]
    tensor = next(value for value in tensors.values() if value.dim() == 4)
    tensor.view(torch.int32).view(-1)[0] ^= 1
    torch.save(content, twin / "checkpoints" / "last.ckpt")
    assert list(differences(whole, twin)) == [f"{found} of checkpoints/last.ckpt"]


def test_another_callback_state_is_a_difference(whole, twin):
    content = read_checkpoint(twin / "checkpoints" / "last.ckpt")
    key = next(key for key in content["callbacks"] if key.startswith("GlobalL1Pruning"))
    content["callbacks"][key] = {}
    torch.save(content, twin / "checkpoints" / "last.ckpt")
    assert list(differences(whole, twin)) == ["masks of checkpoints/last.ckpt"]


def test_a_lost_row_a_repeated_row_and_an_event_are_differences(whole, twin):
    lines = (twin / "metrics.csv").read_text().splitlines(keepends=True)
    for changed in (lines[:-1], [*lines, lines[-1]]):
        (twin / "metrics.csv").write_text("".join(changed))
        assert list(differences(whole, twin)) == ["metrics.csv"]
    (twin / "metrics.csv").write_text("".join(lines))
    writer = EventFileWriter(str(twin))
    writer.add_event(Event(step=9, summary=Summary(value=[Summary.Value(tag="val/loss", simple_value=1.0)])))
    writer.close()
    assert list(differences(whole, twin)) == ["events"]


def test_an_additional_checkpoint_is_a_difference(whole, twin):
    shutil.copy(twin / "checkpoints" / "last.ckpt", twin / "checkpoints" / "left.ckpt")
    assert list(differences(whole, twin)) == ["checkpoints/left.ckpt is not in both runs"]
