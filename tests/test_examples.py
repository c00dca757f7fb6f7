"""Every example runs as documented, in a folder without the rest of the repository."""

import csv
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torchvision.models import resnet18

from lit_prune.main import main
from tests.docs import DOCUMENTS, ROOT
from tests.docs.session import run_python
from tests.training.conftest import TINY

EXAMPLES = ROOT / "examples"
# enough to test the notebook, not to train good networks
SHORT = """
import lit_prune
from lit_prune.models.resnet18_channels import FULL_CHANNELS

class Narrow(lit_prune.LitResNet18):
    def __init__(self, **settings):
        super().__init__(channels={name: width // 4 for name, width in FULL_CHANNELS.items()}, **settings)

lit_prune.LitResNet18 = Narrow
LIMIT_TRAIN, VAL_SIZE, EPOCHS = 64, 50, 2
AMOUNTS = (0.5,)
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(EXAMPLES, tmp_path / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "examples"


def run_script(folder: Path, name: str, *argv: str) -> str:
    """Run a script with arguments, and return its output."""
    return run_python((folder / name).read_text(encoding="utf-8"), name, folder, *argv)


def assert_result(said: str, sparsity: float, *, accuracy: float) -> None:
    """Check the last line that an example prints: its sparsity, and an accuracy above the given one."""
    result = re.search(r"accuracy (.*)%, (.*)% of the weights are zero$", said.splitlines()[-1])
    assert result is not None, said
    assert float(result[1]) > 100 * accuracy
    assert float(result[2]) == pytest.approx(100 * sparsity, abs=0.1)


def test_the_callbacks_work_in_your_own_script(folder):
    said = run_script(folder, "reuse_in_your_project.py")
    # 80% of 9 * 16, 9 * 16 * 32, 9 * 32 * 32 and 32 * 3 weights
    assert "11251 of 14064 weights are zero" in said
    assert "weights are the same as those of the uninterrupted training" in said
    assert "saved without masks: stem.0.weight, " in said
    assert_result(said, 0.8, accuracy=0.9)


def test_the_callbacks_work_in_your_own_cli(folder):
    assert not re.search(r"(import|from) lit_prune", (folder / "reuse_in_your_cli.py").read_text(encoding="utf-8"))
    argv = ("fit", "--config", "reuse_in_your_cli.yaml", "--trainer.enable_progress_bar=false")
    said = run_script(folder, "reuse_in_your_cli.py", *argv)
    with (folder / "logs/bars/version_0/metrics.csv").open(encoding="utf-8") as file:
        rows = [float(row["sparsity/global"]) for row in csv.DictReader(file) if row["sparsity/global"]]
    assert rows[0] == 0
    assert rows[3] == pytest.approx(0.8, abs=1e-4)
    assert rows[4] < 0.2  # the masks are removed
    result = re.fullmatch(r"accuracy (.*), sparsity/global (.*)", said.splitlines()[-1])
    assert result is not None
    assert float(result[1]) > 0.6
    assert float(result[2]) == pytest.approx(rows[4], abs=1e-3)


def test_a_plain_loop_prunes_gradually(folder):
    assert_result(run_script(folder, "plain_loop.py"), 0.8, accuracy=0.9)


def test_a_loop_of_fabric_prunes_and_resumes(folder):
    said = run_script(folder, "fabric_loop.py")
    assert said.splitlines()[-2].endswith(", 80.0% of the weights are zero")
    assert_result(said, 0.8, accuracy=0.9)


def test_the_trainer_of_transformers_prunes(folder):
    pytest.importorskip("transformers", reason="the package transformers is not installed")
    pytest.importorskip("accelerate", reason="the package accelerate is not installed")
    assert_result(run_script(folder, "transformers_trainer.py"), 0.5, accuracy=0.9)


def test_the_documentation_shows_the_callback_for_transformers():
    source = (EXAMPLES / "transformers_trainer.py").read_text(encoding="utf-8")
    callback = source[source.index("class PruneAtStep") :].split("\n\n\n")[0]
    assert sum(callback in document.read_text(encoding="utf-8") for document in DOCUMENTS) == 1


@pytest.mark.gate
def test_a_network_is_fine_tuned_from_imagenet_weights(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    # tests have no internet access: a file like the one that would be downloaded
    source = resnet18()
    torch.save(source.state_dict(), "resnet18.pth")
    argv = ["--config", "finetune_from_imagenet.yaml", "--model.weights", "resnet18.pth", *TINY]
    assert main(["fit", *argv, "--trainer.max_epochs=1"]) == 0, capsys.readouterr().err
    assert main(["fit", *argv, "--trainer.max_epochs=2"]) == 0
    runs = Path("lightning_logs/finetune_from_imagenet")
    head_alone, all_of_it = (_weights(runs / f"version_{n}/checkpoints") for n in (0, 1))
    first = source.state_dict()["conv1.weight"]
    assert torch.equal(head_alone["state_dict"]["backbone.conv1.weight"], first)
    assert not torch.equal(all_of_it["state_dict"]["backbone.conv1.weight"], first)
    rates = [group["lr"] for group in all_of_it["optimizer_states"][0]["param_groups"]]
    assert rates == pytest.approx([1e-3 * 0.5**n for n in range(6)])
    held = sum(len(group["params"]) for group in all_of_it["optimizer_states"][0]["param_groups"])
    assert held == len(list(source.parameters())) - 2 + 4  # a head of two layers in place of torchvision's one


def _weights(folder: Path) -> dict[str, Any]:
    checkpoint = next(folder.glob("*.ckpt"))
    loaded: dict[str, Any] = torch.load(checkpoint, map_location="cpu", weights_only=True)
    return loaded


def execute(folder: Path, settings: str | None) -> list[str]:
    """Execute the notebook, optionally with other settings, and return what its cells print."""
    import nbformat  # here, because this takes seconds
    from nbclient import NotebookClient

    notebook = nbformat.read(folder / "tasks_1_to_5.ipynb", as_version=4)
    if settings is not None:
        (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
        cell.source = settings
    for cell in notebook.cells:
        cell.pop("outputs", None)
        if cell.cell_type == "code":
            cell.outputs = []
    NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert [output for output in outputs if output.output_type == "error"] == []
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 6
    return [output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"]


def check_notebook(printed: list[str], epochs: int) -> None:
    """Check the outputs that do not depend on the length of training."""
    freezing, masked, removed = printed
    assert [line.split(maxsplit=1)[1] for line in freezing.splitlines()] == ["unchanged"] * 2 + ["trained"] * 2
    assert masked.split(": ")[1].strip() == ", ".join(["0.3000"] * epochs)
    end, untouched = (float(part.split(": ")[1]) for part in removed.strip().split("; "))
    assert 0.1 < untouched <= end < 0.3


@pytest.mark.gate
@pytest.mark.filterwarnings("ignore:.*")  # from the kernel's start and end
def test_the_notebook_runs(folder):
    check_notebook(execute(folder, SHORT), epochs=2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*")
def test_the_notebook_runs_as_it_ships(folder):
    check_notebook(execute(folder, None), epochs=4)


def test_every_example_has_a_test():
    """The test of `moons` is in `tests/study/run/test_running.py`."""
    stems = {path.stem for path in EXAMPLES.iterdir() if path.suffix in (".py", ".yaml", ".ipynb")}
    scripts = {"fabric_loop", "plain_loop", "transformers_trainer"}
    reused = {"finetune_from_imagenet", "moons", "reuse_in_your_cli", "reuse_in_your_project", "tasks_1_to_5"}
    assert stems == scripts | reused
