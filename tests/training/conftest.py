"""Call the command line as a user would, in an empty folder."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from lit_prune.main import main
from lit_prune.models.resnet18_channels import FULL_CHANNELS


@dataclass(frozen=True)
class Outcome:
    """What a user sees of one command."""

    status: int
    out: str
    err: str

    @property
    def complaint(self) -> str:
        """The error line on stderr, without the program's name; fails if there is none or more than one."""
        start = "lit-prune: " if self.status > 128 else "lit-prune: error: "  # an interruption is not an error
        lines = [line for line in self.err.splitlines() if line.startswith(start)]
        assert len(lines) == 1, self.err
        assert "Traceback" not in self.err
        return lines[0].removeprefix(start)


Run = Callable[..., Outcome]

# a training of a few seconds; an epoch has four batches
TINY = [
    "--data.source=synthetic",
    "--data.limit_train=32",
    "--data.val_size=20",
    "--data.batch_size=8",
    "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
# 8 channels in every layer of ResNet-18: training takes a fiftieth of the time, checkpoints a thousandth of the bytes
NARROW = f"--model.channels={json.dumps(dict.fromkeys(FULL_CHANNELS, 8), separators=(',', ':'))}"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Call `main` with arguments in an empty folder, and return what a user sees."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(*argv: str) -> Outcome:
        capfd.readouterr()
        status = main(list(argv))
        captured = capfd.readouterr()
        return Outcome(status, captured.out, captured.err)

    yield call
    torch.set_num_threads(threads)
