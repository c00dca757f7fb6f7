"""No file with weights runs code, and the refusal says why."""

import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from lit_prune.errors import InputError
from lit_prune.files.checkpoint import read_checkpoint, read_state_dict
from lit_prune.training.checkpoint_io import AtomicCheckpointIO
from tests.safety.gadgets import GADGETS, exchanged, shell
from tests.training.conftest import TINY

READERS = [read_checkpoint, read_state_dict]
# loads each file in the unsafe ways
OPEN_ALL = """
import pickle, sys, warnings
warnings.simplefilter("ignore")
import torch
for path in sys.argv[1:]:
    sys.path.insert(0, path.rpartition("/")[0])
    for load in (lambda f: torch.load(f, weights_only=False), lambda f: pickle.load(open(f, "rb"))):
        try:
            found = load(path)
        except BaseException:
            continue
        getattr(isinstance(found, dict) and found.get("more"), "wait", int)()
"""


def refusal(function: Callable[[Path], Any], path: Path) -> str:
    with pytest.raises(InputError) as error:
        function(path)
    return str(error.value)


def sentence(path: Path | str, asked: str | None) -> str:
    """Return a pattern of the refusal: with the name of what the file asks for, if torch can tell it."""
    file = re.escape(str(path))
    if asked is None:
        return (
            rf"Expected a checkpoint or a state dict, but got `{file}`, which is neither, or contains objects that "
            r"`torch\.load\(weights_only=True\)` refuses to load\. HINT: .*could run code\."
        )
    return (
        rf"Expected a file with nothing but tensors and plain values, but got `{file}`, which is unsafe: "
        rf"loading it also needs .*{re.escape(asked)}.*\. HINT: loading the file could run code; "
        r"save only the `state_dict` of the model\."
    )


@pytest.fixture(scope="module")
def armed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, Path]]:
    """Write every gadget: its file, and the canary that it would make."""
    files = {}
    for number, (name, (write, _)) in enumerate(GADGETS.items()):
        folder = tmp_path_factory.mktemp("gadget")
        files[name] = folder / "evil.ckpt", folder / f"canary{number}"
        write(*files[name])
    return files


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("forced", [False, True], ids=["", "forced"])
@pytest.mark.parametrize("name", GADGETS)
def test_no_gadget_runs(armed, name, forced, read, monkeypatch):
    if forced:  # switches off torch's own safety, except for callers that pass `weights_only=True`
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    monkeypatch.syspath_prepend(str(armed[name][0].parent))
    path, canary = armed[name]
    said = refusal(read, path)
    assert re.fullmatch(sentence(path, GADGETS[name][1]), said), said
    assert not canary.exists()


@pytest.mark.parametrize("full_powers", [None, False])
@pytest.mark.parametrize("name", GADGETS)
def test_a_trainer_reads_checkpoints_as_safely(armed, name, full_powers, monkeypatch):
    """Under SLURM, a Trainer resumes without being asked, from a file in the folder in which it starts."""
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    path, canary = armed[name]
    said = refusal(lambda path: AtomicCheckpointIO().load_checkpoint(path, weights_only=full_powers), path)
    assert re.fullmatch(sentence(path, GADGETS[name][1]), said)
    assert not canary.exists()


@pytest.mark.gate
def test_the_gadgets_are_real(tmp_path):
    """Loaded unsafely, every gadget makes its canary; otherwise the test above could not fail."""
    files = {}
    for number, (name, (write, _)) in enumerate(GADGETS.items()):
        (tmp_path / str(number)).mkdir()
        files[name] = tmp_path / str(number) / "evil.ckpt", tmp_path / str(number) / f"canary{number}"
        write(*files[name])
    subprocess.run([sys.executable, "-c", OPEN_ALL, *(str(path) for path, _ in files.values())], check=True)
    # torch reads TorchScript in C++, where Python's names mean nothing
    assert [name for name, (_, canary) in files.items() if not canary.exists()] == ["TorchScript"]


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    path, canary = tmp_path / "evil.pt", tmp_path / "canary"
    torch.save({"weight": torch.ones(2)}, path)
    exchanged(path, pickle.dumps(shell(canary), 2), zipfile.ZIP_DEFLATED)
    torch.load(path, weights_only=False)
    assert canary.exists()
    canary.unlink()
    for read in READERS:
        assert "whose records are compressed" in refusal(read, path)
    assert not canary.exists()


def _in_callback(checkpoint: dict[str, Any], gadget: Any) -> None:
    next(state for name, state in checkpoint["callbacks"].items() if "GlobalL1Pruning" in name)["more"] = gadget


def _in_optimizer(checkpoint: dict[str, Any], gadget: Any) -> None:
    checkpoint["optimizer_states"][0]["state"][0]["step"] = gadget


def _in_settings(checkpoint: dict[str, Any], gadget: Any) -> None:
    checkpoint["lit_prune"]["settings"]["model"]["optimizer"] = gadget


def _in_hyperparameters(checkpoint: dict[str, Any], gadget: Any) -> None:
    checkpoint["hyper_parameters"]["output"] = gadget


def _as_key(checkpoint: dict[str, Any], gadget: Any) -> None:
    checkpoint[gadget] = None


@pytest.mark.parametrize("hide", [_in_callback, _in_optimizer, _in_settings, _in_hyperparameters, _as_key])
@pytest.mark.parametrize("option", ["--ckpt_path", "--model.weights", "--model.init_from"])
@pytest.mark.gate
def test_a_gadget_in_a_genuine_checkpoint_does_not_run(run, tmp_path, genuine, hide, option):
    checkpoint = read_checkpoint(genuine)
    hide(checkpoint, shell(tmp_path / "canary"))
    torch.save(checkpoint, "evil.ckpt")
    before = set(tmp_path.rglob("*"))
    answer = run("fit", *TINY, f"{option}=evil.ckpt")
    assert answer.status == 2
    assert re.fullmatch(sentence("evil.ckpt", "posix.system"), answer.complaint)
    assert set(tmp_path.rglob("*")) == before


OWN = ["--model=lightning.pytorch.demos.boring_classes.BoringModel",
       "--data=lightning.pytorch.demos.boring_classes.BoringDataModule",
       "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]  # fmt: skip


@pytest.mark.parametrize("name", ["os.system", "old format", "oldest format", "bare pickle 0", "module", "TorchScript"])
@pytest.mark.parametrize(
    "argv",
    [
        ["fit", *TINY, "--ckpt_path"],
        ["validate", *TINY, "--ckpt_path"],
        ["test", *TINY, "--ckpt_path"],
        ["predict", *TINY, "--ckpt_path"],
        ["fit", *TINY, "--model.weights"],
        ["fit", *TINY, "--model.init_from"],
        ["fit", *OWN, "--init_from"],
        ["fit", *OWN, "--weights_only=false", "--ckpt_path"],
        ["study", "--preset=quick", "--out=study", "--dry_run", "--weights"],
    ],
    ids=lambda argv: " ".join([argv[0], *argv[-2:]]),
)
def test_every_option_that_takes_a_file_refuses_it(run, tmp_path, monkeypatch, argv, name):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    write, asked = GADGETS[name]
    write(tmp_path / "evil.pt", tmp_path / "canary")
    before = set(tmp_path.rglob("*"))
    answer = run(*argv, "evil.pt")
    assert answer.status == 2
    assert re.fullmatch(".*" + sentence("evil.pt", asked), answer.complaint)
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("text", ["config\nfoo\nbar\n", "cat\ndog\n", "import os\n", "(a list)", "]\n", "\x93NUMPY"])
def test_text_is_not_called_unsafe(tmp_path, text):
    (tmp_path / "notes.txt").write_text(text, encoding="latin-1")
    assert "which is neither" in refusal(read_state_dict, tmp_path / "notes.txt")


def test_the_name_of_what_an_unsafe_file_asks_for_stays_in_one_line(tmp_path):
    """The author of a pickle chooses the names in it, which may hold escape sequences of a terminal."""
    path = tmp_path / "evil.pt"
    torch.save({"weight": torch.ones(2)}, path)
    exchanged(path, b"\x80\x02cos\n\x1b[31mHINT: fine\r" + b"x" * 10_000 + b"\n.")
    said = refusal(read_state_dict, path)
    assert r"which is unsafe: loading it also needs os.\x1b[31mHINT: fine\rxxx" in said
    assert len(said) < 400
    assert said.isprintable()
