"""Reports, coverage and packed masks."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from lit_prune.errors import InputError
from lit_prune.functional import selection
from lit_prune.functional.coverage import GradientCoverage
from lit_prune.functional.masking import apply_masks, remove_masks
from lit_prune.functional.packing import pack_masks, unpack_masks
from lit_prune.functional.pruning import compute_masks
from lit_prune.functional.sparsity import LayerSparsity, SparsityReport, sparsity_report

# typed as Any, because mypy does not know which modules and tensors a model contains
weight_layers: Any = selection.weight_layers


def test_a_report_counts_zeros_and_masks() -> None:
    model: Any = nn.Sequential(nn.Linear(10, 20), nn.Linear(20, 5))
    apply_masks(model, compute_masks(weight_layers(model), 0.25))
    report = sparsity_report(weight_layers(model))
    assert (report.weights, report.zeros, report.masked, report.sparsity) == (300, 75, 75, 0.25)
    assert [layer.name for layer in report.layers] == ["0", "1"]
    remove_masks(model)
    report = sparsity_report(weight_layers(model))
    assert (report.zeros, report.masked) == (75, 0)
    model[0].weight.data.fill_(1)
    assert sparsity_report(weight_layers(model)).layers[0].sparsity == 0


def test_a_report_is_formatted_as_a_table() -> None:
    report = SparsityReport((LayerSparsity("stem", 1000, 250, 250), LayerSparsity("head.fc", 10, 5, 0)))
    assert str(report) == (
        "layer    weights  zeros  masked  sparsity\n"
        "-----------------------------------------\n"
        "stem       1,000    250     250    25.00%\n"
        "head.fc       10      5       0    50.00%\n"
        "-----------------------------------------\n"
        "all        1,010    255     250    25.25%"
    )


@pytest.mark.parametrize("counts", [(10, 11, 0), (10, 5, 6), (10, 5, -1)])
def test_impossible_numbers_are_refused(counts: tuple[int, int, int]) -> None:
    with pytest.raises(InputError, match=r"^Expected 0 <= masked <= zeros <= weights in layer `fc`, but got "):
        LayerSparsity("fc", *counts)
    with pytest.raises(InputError, match=r"^Expected at least one layer in a report, but got none."):
        SparsityReport(())
    layer = LayerSparsity("fc", 1, 1, 1)
    with pytest.raises(InputError, match=r"^Expected each layer once in a report"):
        SparsityReport((layer, layer))


def test_coverage_finds_dead_taps() -> None:
    model = nn.Conv2d(4, 5, 3, padding=1)
    coverage = GradientCoverage(weight_layers(model))
    assert coverage.untouched == 1.0
    coverage.update()  # no gradients yet
    assert coverage.untouched == 1.0
    model(torch.randn(2, 4, 1, 1)).sum().backward()
    coverage.update()
    assert coverage.untouched == pytest.approx(8 / 9)
    model.zero_grad()
    coverage.update()
    assert coverage.untouched == pytest.approx(8 / 9)

    other = GradientCoverage(weight_layers(nn.Conv2d(4, 5, 3)))
    other.restore(unpack_masks(pack_masks(coverage.touched())))
    assert other.untouched == coverage.untouched
    with pytest.raises(InputError, match=r"coverage for layer `` with shape \(1, 1\), but got \(5, 4"):
        GradientCoverage(weight_layers(nn.Linear(1, 1))).restore(coverage.touched())
    with pytest.raises(InputError, match=r"^Expected at least one weight to watch, but got none."):
        GradientCoverage([])


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=4), st.integers(0, 2**31))
def test_packed_masks_survive_a_file(shape: list[int], seed: int) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(seed)) > 0.5
    packed = pack_masks({"a": mask})
    assert packed["a"]["bits"].numel() == -(-mask.numel() // 8)
    assert torch.equal(unpack_masks(packed)["a"], mask)
