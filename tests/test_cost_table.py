"""The script that measures and writes the cost table of docs/benchmarks.md."""

import re
from pathlib import Path

import cost_table
import pytest
import torch

from lit_prune import LitResNet18
from lit_prune.functional import apply_masks, compute_masks, remove_masks, weight_layers
from lit_prune.models.resnet18_channels import FULL_CHANNELS

WIDE, NARROW = ({name: max(4, number // part) for name, number in FULL_CHANNELS.items()} for part in (4, 16))
QUICK = ["--source=synthetic", "--limit=20", "--rounds=1", "--batches", "1", "2", "--no_onnx"]
DOCUMENT = f"# Costs\n\nBefore.\n\n{cost_table.START}\nold\n{cost_table.END}\n\nAfter.\n"


@pytest.fixture
def networks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sparse = LitResNet18(channels=WIDE)
    torch.save(sparse.state_dict(), "dense.pt")
    apply_masks(sparse, compute_masks(weight_layers(sparse), 0.9))
    remove_masks(sparse)
    torch.save(sparse.state_dict(), "sparse.pt")
    torch.save(LitResNet18(channels=NARROW).state_dict(), "small.pt")
    return ["dense=dense.pt", "90%=sparse.pt", "fewer channels=small.pt"]


@pytest.mark.gate
def test_the_table_is_written_between_the_marks(networks, capsys):
    path = Path("page.md")
    path.write_text(DOCUMENT, encoding="utf-8")
    assert cost_table.main([*networks, *QUICK, "--write=page.md"]) == 0
    text = path.read_text(encoding="utf-8")
    printed = capsys.readouterr().out.strip()
    assert text == DOCUMENT.replace("\nold\n", f"\n\n{printed}\n\n")
    rows = {cells[1]: cells for line in text.splitlines() if len(cells := [c.strip() for c in line.split("|")]) > 2}
    head, dense, sparse, small = (rows[name] for name in ("Network", "dense", "90%", "fewer channels"))
    assert head[1:5] == ["Network", "Accuracy", "Zeros", "MFLOPs (not zero)"]
    assert (dense[3], sparse[3], small[3]) == ("0.0%", "90.0%", "0.0%")
    assert all(re.fullmatch(r"\d+\.00%", row[2]) for row in (dense, sparse, small))
    assert (dense[8], dense[10]) == ("1.00", "1.00")  # speeds
    file, compressed = float(sparse[5]), float(sparse[6])
    assert compressed < 0.5 * file
    assert rows["`LitResNet18`"][2].endswith(f"({float(dense[5]):.1f} MB)")
    assert "ONNX" not in printed
    assert re.search(
        r"\*90%\* \(90\.0% of the weights are zero\) takes [\d.]+ .* Accelerated, it is [\d.]+ \(batch 1\)", printed
    )
    assert re.search(
        r"\*fewer channels\* has [\d.]+% of the parameters of \*dense\* and is [\d.]+ \(batch 1\) and ", printed
    )
    assert "accuracy on 20 test images" in printed
    # a second table replaces the first
    assert cost_table.main([*networks[:1], *QUICK, "--write=page.md"]) == 0
    again = path.read_text(encoding="utf-8")
    assert again.count("| Network |") == 1
    assert "90%" not in again
    assert again.startswith("# Costs\n\nBefore.\n")
    assert again.endswith("\n\nAfter.\n")


def test_the_document_has_the_marks():
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(cost_table.START) == text.count(cost_table.END) == 1
    assert text.index(cost_table.START) < text.index(cost_table.END)


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (
            ["90%=sparse.pt"],
            "Expected a first network without zeros, but got `90%`, with 90.0% zeros. HINT: put",
        ),
        (["dense=none.pt"], "Expected the path of a file with weights, but got `none.pt`, which does not exist."),
        (["dense=dense.pt", "--rounds=0"], "Expected `rounds` to be a positive integer, but got 0."),
        (
            ["dense=dense.pt", "--write=none.md"],
            "Expected `--write` to name a document with the lines `<!-- cost table",
        ),
    ],
)
def test_unusable_arguments_are_refused(networks, capsys, argv, complaint):
    with pytest.raises(SystemExit) as leave:
        cost_table.main([*QUICK[:-1], "--no_onnx", *argv])
    assert leave.value.code == 2
    assert complaint in " ".join(capsys.readouterr().err.split())
    assert not Path("none.md").exists()
