"""The script that measures and writes the tables of sparse products in docs/benchmarks.md."""

import json
from pathlib import Path

import pytest
import sparse_table
from measurements.sparse import break_even, make_encoder, make_resnet

from lit_prune.functional import sparsity_report, weight_layers

DOCUMENT = f"# Costs\n\nBefore.\n\n{sparse_table.START}\nold\n{sparse_table.END}\n\nAfter.\n"


@pytest.fixture
def small(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sparse_table, "SHAPES", [(8, 6)])
    monkeypatch.setattr(sparse_table, "ROWS", [1, 20])
    monkeypatch.setattr(sparse_table, "SPARSITIES", [0.5, 0.9])
    monkeypatch.setattr(sparse_table, "NETWORK_SPARSITIES", [0.9])
    networks = {"encoder": (lambda sparsity: make_encoder(sparsity, 1, 64), {"small encoder": (2, 3, 64)})}
    monkeypatch.setattr(sparse_table, "NETWORKS", networks)


def test_tables_are_written_between_the_marks_and_measurements_are_kept(small, monkeypatch, capsys):
    Path("page.md").write_text(DOCUMENT, encoding="utf-8")
    argv = ["--json=sparse.json", "--rounds=1", "--write=page.md"]
    assert sparse_table.main(argv) == 0
    text = Path("page.md").read_text(encoding="utf-8")
    assert text.startswith("# Costs\n\nBefore.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old" not in text
    assert text.count("| 8 x 6 |") == 2
    assert "| small encoder |" in text
    measured = json.loads(Path("sparse.json").read_text(encoding="utf-8"))
    assert measured.keys() == {"machine", "8x6, 1", "8x6, 20", "small encoder, 0.9"}
    # a second run measures nothing again
    monkeypatch.setattr(sparse_table, "measure_product", lambda *_: pytest.fail("measured again"))
    monkeypatch.setattr(sparse_table, "measure_network", lambda *_: pytest.fail("measured again"))
    assert sparse_table.main(argv) == 0
    assert Path("page.md").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("speeds", "limit"),
    [
        ({0.5: 0.5, 0.9: 1.5}, 0.7),
        ({0.5: 1.2, 0.9: 1.5}, 0.5),
        ({0.5: 0.5, 0.9: 0.9}, None),
        ({0.5: 1.5, 0.8: 0.5, 0.9: 1.5}, 0.85),  # noise: the highest crossing counts
    ],
)
def test_break_even(speeds, limit):
    assert break_even(speeds) == (None if limit is None else pytest.approx(limit))


def test_networks_have_the_sparsity():
    found = sparsity_report([ref for ref in weight_layers(make_resnet(0.9)) if ref.name != "fc"])
    assert found.sparsity == pytest.approx(0.9, abs=1e-3)
    assert sparsity_report(weight_layers(make_encoder(0.8, 1, 64))).sparsity == pytest.approx(0.8, abs=1e-3)


def test_the_document_has_the_marks():
    text = (Path(__file__).parents[1] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    assert text.count(sparse_table.START) == text.count(sparse_table.END) == 1


def test_unusable_arguments_are_refused(small, capsys):
    for argv, message in ((["--rounds=0"], "--rounds"), (["--write=none.md"], "to name a document")):
        with pytest.raises(SystemExit) as leave:
            sparse_table.main(["--json=sparse.json", *argv])
        assert leave.value.code == 2
        assert message in capsys.readouterr().err
